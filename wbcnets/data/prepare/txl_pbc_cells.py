"""Cells cut from TXL-PBC's fields: leukocytes by type, platelets, and crops of neither.

A split is a laboratory and a part, such as ``bccd_train``: to train on some laboratories and test
on another, name their splits.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cards.classes import OTHER
from wbcnets.data.cards.detection import BLOOD_CELLS
from wbcnets.data.cells.cutting import check_contexts, cut_cell, save_crop
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.detection.dataset import CocoImage
from wbcnets.data.detection.yolo import load_yolo
from wbcnets.data.prepare.sources import find_layout
from wbcnets.data.prepare.txl_pbc import LABEL_NAMES, read_metadata
from wbcnets.io.archives import unpack
from wbcnets.io.images import RgbImage, read_image
from wbcnets.io.parallel import map_images

# Source in metadata.csv -> laboratory in the names of the splits
LABORATORIES = {"PBC": "pbc", "BCCD": "bccd", "Raabin-WBC": "raabin", "BCDD": "bcdd"}
# metadata.csv gives no types for Raabin-WBC, but lists its images by type, as the images show: the
# number of leukocytes, in the order of the rows, after which each type ends
_RAABIN_ENDS = {
    93: "basophil",
    190: "eosinophil",
    281: "lymphocyte",
    373: "monocyte",
    462: "neutrophil",
}
# Cut off, smudged, or of another type than their neighbors
_RAABIN_UNCLEAR = frozenset({40, 51, 328, 350, 351, 432})
_PARTS = ("train", "val")
# Red cells, and platelets, that are cut from one field
_FEW = 2
# Fraction of a leukocyte's box that a crop of something else may show
_MOST_LEUKOCYTE = 0.2
_TRIES = 8

Box = npt.NDArray[np.float32]


@dataclass
class _Field:
    """One field: its boxes, and the class of each leukocyte or None."""

    image: CocoImage
    split: str
    types: list[str | None] = field(default_factory=list)


def list_txl_pbc_cells(
    source: Path, card: ClassificationCard, scratch: Path, contexts: Sequence[float]
) -> CellListing:
    """Cuts the cells of TXL-PBC's fields and lists them by laboratory and part.

    Args:
        source: The published folder or zip file.
        card: The classes.
        scratch: The folder for the unpacked source and for ``cells/<split>/<class>/``.
        contexts: A crop per leukocyte and context, see ``cut_cell``; the other crops take turns.

    Raises:
        ConfigError: if a context is out of range.
        DataError: if images, labels or rows of metadata.csv are missing or cannot be used.
    """
    check_contexts(contexts)
    layout = find_layout(unpack(source, scratch / "source"), "metadata.csv")
    root = scratch / "cells"
    listing = CellListing(root, class_texts=list(card.class_names))

    def cut(entry: _Field) -> list[CellFile]:
        pixels = read_image(entry.image.file_name)
        stem = Path(entry.image.file_name).stem
        files = []
        for number, (class_name, crop) in enumerate(_crops(entry, pixels, contexts)):
            file = root / entry.split / class_name / f"{entry.split}_{stem}_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_crop(crop, file)
            files.append(CellFile(file, class_name, entry.split, stem))
        return files

    for files in map_images(cut, _fields(layout), card.name):
        listing.files += files
    return listing


def _fields(layout: Path) -> list[_Field]:
    """Returns all fields in the order of metadata.csv, with the types of their leukocytes."""
    metadata = read_metadata(layout / "metadata.csv")
    images: dict[str, CocoImage] = {}
    for part in _PARTS:
        files = sorted((layout / "images" / part).glob("*.png"))
        dataset = load_yolo(
            files,
            layout / "labels" / part,
            BLOOD_CELLS,
            image_root=layout / "images" / part,
            label_names=LABEL_NAMES,
        )
        images |= {Path(image.file_name).name: image for image in dataset.images}
    fields, raabin = [], 0
    for name, row in metadata.items():
        image = images.get(name)
        if image is None:
            continue
        count = int((image.labels == BLOOD_CELLS.index("WBC")).sum())
        types: list[str | None] = [row["wbc_subtype_if_known"] or None] * count
        if row["source"] == "Raabin-WBC":
            types = [_raabin_type(raabin + index) for index in range(count)]
            raabin += count
        fields.append(_Field(image, f"{LABORATORIES[row['source']]}_{row['split']}", types))
    return fields


def _raabin_type(index: int) -> str | None:
    """Returns the type of a leukocyte by its position among those of Raabin-WBC."""
    if index in _RAABIN_UNCLEAR:
        return None
    return next((name for end, name in _RAABIN_ENDS.items() if index < end), None)


def _crops(
    entry: _Field, pixels: RgbImage, contexts: Sequence[float]
) -> Iterator[tuple[str, RgbImage]]:
    """Yields class and crop of the typed leukocytes, and of a few other places."""
    boxes, labels = entry.image.boxes, entry.image.labels
    white = boxes[labels == BLOOD_CELLS.index("WBC")]
    for box, class_name in zip(white, entry.types):
        for context in contexts if class_name else ():
            yield str(class_name), cut_cell(pixels, box, context)
    # The same in every run, other in every field
    generator = np.random.default_rng(zlib.crc32(Path(entry.image.file_name).name.encode()))
    places = [(OTHER, box) for box in _empty_boxes(white, pixels, generator)]
    for name, class_name in (("RBC", OTHER), ("Platelets", "platelet")):
        found = boxes[labels == BLOOD_CELLS.index(name)]
        places += [(class_name, box) for box in generator.permutation(found)[:_FEW]]
    for number, (class_name, box) in enumerate(places):
        context = contexts[number % len(contexts)]
        if not _shows_leukocyte(box, context, white):
            yield class_name, cut_cell(pixels, box, context)


def _empty_boxes(
    white: npt.NDArray[np.float32], pixels: RgbImage, generator: np.random.Generator
) -> list[Box]:
    """Returns a box of a leukocyte's size away from all leukocytes, if a few draws find one."""
    height, width = pixels.shape[:2]
    side = float(np.median(white[:, 2:].max(axis=1))) if len(white) else min(height, width) / 3
    for _ in range(_TRIES):
        x, y = (
            generator.uniform(0, max(width - side, 1)),
            generator.uniform(0, max(height - side, 1)),
        )
        box = np.array([x, y, side, side], np.float32)
        if not _shows_leukocyte(box, 1.0, white):
            return [box]
    return []


def _shows_leukocyte(box: Box, context: float, white: npt.NDArray[np.float32]) -> bool:
    """Tells whether a crop shows more than a little of any leukocyte."""
    center, half = box[:2] + box[2:] / 2, context * box[2:].max() / 2
    low = np.maximum(white[:, :2], center - half)
    high = np.minimum(white[:, :2] + white[:, 2:], center + half)
    shared = (high - low).clip(min=0).prod(axis=1)
    return bool((shared > _MOST_LEUKOCYTE * white[:, 2:].prod(axis=1)).any())
