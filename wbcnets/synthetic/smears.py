"""Synthetic blood smears with exact boxes: for pretraining, examples and tests without a download.

    smear = generate_smear(seed=0)                       # image, boxes, labels
    write_smear_dataset("output/smears", num_images=100)  # a COCO folder

The same seed and style give the same bytes in every process. The defaults look like BCCD (640 x 480
pixels, about 14 pixels per um); ``SmearStyle`` has other stains, scales and cameras.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from wbcnets.errors import DataError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.outputs import claim_folder, write_readme
from wbcnets.synthetic.cells import EOSIN, HEMOGLOBIN, Cell, FloatArray, Texture, draw_cell
from wbcnets.synthetic.layout import CellPosition, position_cells
from wbcnets.synthetic.optics import (
    STAINS,
    jitter_stain,
    light_field,
    photograph,
    stain_colors,
    transmit,
)
from wbcnets.synthetic.style import (
    DIFFERENTIALS,
    LEUKOCYTE_CLASSES,
    SMEAR_CLASSES,
    SmearStyle,
    varied_style,
)

__all__ = [
    "DEFAULT_STYLE",
    "DIFFERENTIALS",
    "LEUKOCYTE_CLASSES",
    "SMEAR_CLASSES",
    "Smear",
    "SmearStyle",
    "generate_smear",
    "smears_to_coco",
    "write_smear_dataset",
]

GENERATOR_NAME = "wbcnets synthetic smears"
GENERATOR_VERSION = "1"
DEFAULT_STYLE = SmearStyle()
_LEAST_VISIBLE = 0.25
COMMAND = "smears"
MAX_IMAGES, MAX_THREADS = 1_000_000, 64
_BLOCK = 1000
_README = """Synthetic blood smears: images/, and annotations.json in COCO's format.

{}
"""


@dataclass(frozen=True)
class Smear:
    """An image with the boxes and classes of its cells.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels, tight around the visible part of the cell.
        labels: (N,) int64, indices into ``SMEAR_CLASSES``.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class _Film:
    """The film while cells are added: summed absorbers, and the cover of the leukocytes."""

    def __init__(self, height: int, width: int) -> None:
        self.absorbers = np.zeros((4, height, width), dtype=np.float32)
        self.leukocytes = np.zeros((height, width), dtype=np.float32)

    def add(self, cell: Cell, position: CellPosition) -> tuple[float, float, float, float] | None:
        """Adds a cell; returns the box of its visible part, or None if too little is visible."""
        height, width = self.leukocytes.shape
        rows, columns = cell.cover.shape
        top, left = round(position.y) - rows // 2, round(position.x) - columns // 2
        y1, x1, y2, x2 = (
            max(top, 0),
            max(left, 0),
            min(top + rows, height),
            min(left + columns, width),
        )
        if y1 >= y2 or x1 >= x2:
            return None
        frame = np.s_[y1:y2, x1:x2]
        patch = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
        cover, amounts = cell.cover[patch], cell.absorbers[(slice(None), *patch)]
        if position.name in LEUKOCYTE_CLASSES:
            np.maximum(self.leukocytes[frame], cover, out=self.leukocytes[frame])
        elif position.name == "RBC":
            # Red cells are soft: they give way to leukocytes instead of showing through them
            free = 1.0 - self.leukocytes[frame]
            # Red cells that overlap press each other thinner
            squeeze = 1.0 / (1.0 + 0.45 * self.absorbers[(HEMOGLOBIN, *frame)])
            cover, amounts = cover * free, amounts * (free * squeeze)
        self.absorbers[(slice(None), *frame)] += amounts
        return _visible_box(cover > 0.5, int(np.count_nonzero(cell.cover > 0.5)), x1, y1)


def _visible_box(
    mask: npt.NDArray[np.bool_], whole: int, left: int, top: int
) -> tuple[float, float, float, float] | None:
    if np.count_nonzero(mask) < _LEAST_VISIBLE * whole or not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(left + columns[0]),
        float(top + rows[0]),
        float(left + columns[-1] + 1),
        float(top + rows[-1] + 1),
    )


def _haze(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    cells = max(2, height // 60), max(2, width // 60)
    noise = np.abs(rng.standard_normal(cells)).astype(np.float32)
    haze = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(haze, dtype=np.float32) * np.float32(0.03)


def generate_smear(
    seed: int | np.random.SeedSequence,
    style: SmearStyle = DEFAULT_STYLE,
) -> Smear:
    """Returns one blood smear.

    A cell has a box only if at least a quarter of it is visible. Overlapping red cells darken each
    other by the Beer-Lambert law.

    Args:
        seed: The same seed and style give the same bytes.
        style: The look of the smear.
    """
    rng = np.random.default_rng(seed)
    if style.vary:
        style = varied_style(rng, style)
    name = str(rng.choice(list(STAINS))) if style.stain == "random" else style.stain
    stain = jitter_stain(rng, stain_colors(name)) if style.vary else stain_colors(name)
    positions = position_cells(rng, style)
    texture = Texture(rng, style.magnification)
    film = _Film(style.height, style.width)
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    for position in positions:
        box = film.add(draw_cell(position.name, rng, position.radius, texture), position)
        if box is not None:
            boxes.append(box)
            labels.append(SMEAR_CLASSES.index(position.name))
    film.absorbers[EOSIN] += _haze(rng, style.height, style.width)
    light = light_field(rng, style.height, style.width, style.unevenness)
    colors = transmit(film.absorbers, stain, light)
    image = photograph(rng, colors, style.blur, style.softness, style.noise)
    return Smear(
        image,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
    )


def smears_to_coco(
    smears: Sequence[Smear],
    file_names: Sequence[str],
    classes: Sequence[str] = SMEAR_CLASSES,
    info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns smears in COCO's detection format.

    Args:
        smears: The smears.
        file_names: The image file of each smear, relative to the folder of images.
        classes: The classes of ``SMEAR_CLASSES`` to annotate; category ids count from 1.
        info: COCO's "info" block.

    Raises:
        DataError: if a class is unknown, or the numbers of smears and file names differ.
    """
    _check_classes(classes)
    if len(smears) != len(file_names):
        raise DataError(f"smears_to_coco: {len(smears)} smears, but {len(file_names)} file names")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = {SMEAR_CLASSES.index(name): i for i, name in enumerate(classes, start=1)}
    for image_id, (smear, file_name) in enumerate(zip(smears, file_names), start=1):
        height, width = smear.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(smear.boxes.tolist(), smear.labels.tolist()):
            if label not in categories:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": info or {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "cell"}
            for i, name in enumerate(classes, start=1)
        ],
    }


def _check_classes(classes: Sequence[str]) -> None:
    unknown = [name for name in classes if name not in SMEAR_CLASSES]
    if unknown or not classes or len(set(classes)) != len(classes):
        raise DataError(
            f"smear classes {list(classes)}: give each name once, out of {SMEAR_CLASSES}"
        )


def _remove_old_smears(folder: Path) -> None:
    """Empties a folder that this generator filled before."""
    (folder / "annotations.json").unlink(missing_ok=True)
    for old in (folder / "images").glob("smear_*"):
        old.unlink()


def _write_smear(index: int, folder: Path, seed: int, style: SmearStyle, suffix: str) -> Smear:
    smear = generate_smear(np.random.SeedSequence(seed, spawn_key=(index,)), style)
    pixels = cv2.cvtColor(smear.image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []
    _, encoded = cv2.imencode(suffix, pixels, options)
    path = folder / "images" / f"smear_{index:06d}{suffix}"
    write_atomically(path, lambda file: file.write(encoded.tobytes()), durable=False)
    # COCO needs only the size of the image; thousands of images would fill the memory
    return dataclasses.replace(smear, image=np.broadcast_to(np.uint8(0), smear.image.shape))


def write_smear_dataset(
    folder: str | os.PathLike[str],
    num_images: int,
    seed: int = 0,
    style: SmearStyle = DEFAULT_STYLE,
    classes: Sequence[str] = SMEAR_CLASSES,
    workers: int = 0,
    suffix: str = ".jpg",
) -> Path:
    """Writes ``folder/images/smear_000000.jpg`` and so on, and ``folder/annotations.json`` (COCO).

    A folder that this function wrote before is overwritten. Image i depends only on seed, style and
    i: a longer dataset begins with the shorter one. The annotations are written last: a folder that
    has them is complete.

    Args:
        folder: The folder to write; created if missing.
        num_images: The number of images.
        seed: The seed of the dataset, at least 0.
        style: The look of the smears.
        classes: The classes to annotate, such as ``LEUKOCYTE_CLASSES``; the others are drawn only.
        workers: Threads; 0 uses the calling thread. The files do not depend on it.
        suffix: ".jpg" (quality 92) or ".png".

    Returns:
        The path of annotations.json.

    Raises:
        ConfigError: if the folder holds other files.
        DataError: if an argument is out of range.
    """
    folder = Path(folder)
    _check_classes(classes)
    in_range = 1 <= num_images <= MAX_IMAGES and 0 <= workers <= MAX_THREADS and seed >= 0
    if not in_range or suffix not in (".jpg", ".png"):
        raise DataError(
            f"{folder}: num_images must be from 1 to {MAX_IMAGES:,}, workers from 0 to "
            f"{MAX_THREADS}, seed at least 0 and suffix .jpg or .png; got {num_images}, {workers}, "
            f"{seed} and {suffix!r}"
        )
    info = {
        "description": GENERATOR_NAME,
        "version": GENERATOR_VERSION,
        "seed": seed,
        "style": dataclasses.asdict(style),
    }
    with claim_folder(folder, COMMAND):
        _remove_old_smears(folder)
        (folder / "images").mkdir(exist_ok=True)
        write = partial(_write_smear, folder=folder, seed=seed, style=style, suffix=suffix)
        if workers:
            with ThreadPoolExecutor(workers) as pool:
                # Block by block: a pool takes all its work into memory at once
                blocks = (
                    range(num_images)[at : at + _BLOCK] for at in range(0, num_images, _BLOCK)
                )
                written = (smear for block in blocks for smear in pool.map(write, block))
                smears = list(tqdm(written, "smears", num_images))
        else:
            smears = [write(index) for index in tqdm(range(num_images), "smears")]
        names = [f"smear_{index:06d}{suffix}" for index in range(num_images)]
        path = folder / "annotations.json"
        coco = json.dumps(smears_to_coco(smears, names, classes, info))
        write_atomically(path, lambda file: file.write(coco.encode()))
        write_readme(folder, COMMAND, _README.format(json.dumps(info, indent=2)))
    return path
