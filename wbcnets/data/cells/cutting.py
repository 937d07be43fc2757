"""Cuts cells out of fields by their boxes: one rule for training and prediction.

A crop is a square around the center of the box; its side is the box's longer side times a context.
At a border it is shifted into the field, so that every pixel is one that the camera saw.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.detection.dataset import CocoDataset, CocoImage
from wbcnets.errors import ConfigError
from wbcnets.io.image_sources import ImageSource
from wbcnets.io.images import RgbImage, read_image
from wbcnets.io.parallel import map_images

# Of the crop's side over the box's longer side; the shipped classifiers take 1.2 to 2.7
DEFAULT_CONTEXT = 1.5
MIN_CONTEXT, MAX_CONTEXT = 1.0, 8.0


def check_contexts(contexts: Sequence[float]) -> None:
    """Checks contexts, see ``cut_cell``.

    Raises:
        ConfigError: if there are none, or one is out of range.
    """
    odd = [context for context in contexts if not MIN_CONTEXT <= context <= MAX_CONTEXT]
    if odd or not contexts:
        raise ConfigError(
            f"contexts {list(contexts)}: each is the crop's side over the box's longer side and "
            f"must lie in [{MIN_CONTEXT:g}, {MAX_CONTEXT:g}]",
            setting="contexts",
        )


def cut_cell(field: RgbImage, box: Iterable[float], context: float = DEFAULT_CONTEXT) -> RgbImage:
    """Returns the crop of one cell, (S, S, 3); a view of the field.

    Args:
        field: (H, W, 3) uint8 RGB.
        box: ``x, y, width, height`` in px, inside the field.
        context: The crop's side over the box's longer side. A crop larger than the field takes the
            field's shorter side.
    """
    x, y, width, height = (float(value) for value in box)
    side = min(max(1, round(context * max(width, height))), *field.shape[:2])
    left = _shift(x + width / 2, side, field.shape[1])
    top = _shift(y + height / 2, side, field.shape[0])
    return field[top : top + side, left : left + side]


@dataclass(frozen=True)
class BoxedCell(ImageSource):
    """A cell of a field that is not read yet; its name is the field's with the number of the box.

    Args:
        box: See ``cut_cell``.
        context: See ``cut_cell``.
    """

    box: tuple[float, ...] = ()
    context: float = DEFAULT_CONTEXT

    def read(self) -> RgbImage:
        """Returns the crop, (S, S, 3).

        Raises:
            DataError: if the field cannot be read; the message names it.
        """
        return cut_cell(_read_field(self.path), self.box, self.context)


def find_boxed_cells(dataset: CocoDataset, context: float = DEFAULT_CONTEXT) -> list[BoxedCell]:
    """Returns all boxes of a dataset as images to predict, field by field.

    Args:
        dataset: Fields with boxes, such as a detector's ``predictions.json``.
        context: See ``cut_cell``.

    Raises:
        ConfigError: if the context is out of range.
    """
    check_contexts([context])
    return [
        BoxedCell(
            Path(image.file_name),
            f"{Path(image.file_name).relative_to(dataset.image_root).as_posix()}#{index}",
            box=tuple(map(float, image.boxes[index])),
            context=context,
        )
        for image in dataset.images
        for index in np.flatnonzero(~image.crowd)
    ]


@lru_cache(maxsize=1)
def _read_field(path: Path) -> RgbImage:
    """Returns a field; the cells of one field follow each other."""
    return read_image(path)


def list_cut_cells(
    dataset: CocoDataset, folder: Path, contexts: Sequence[float] = (DEFAULT_CONTEXT,)
) -> CellListing:
    """Writes the crop of every box as ``<class>/<image>_<box>_<context>.png``, and lists them.

    Boxes of a crowd are left out. The group of a crop is its field.

    Args:
        dataset: Fields with boxes.
        folder: An empty folder for the crops.
        contexts: See ``cut_cell``; each gives a crop per box.

    Raises:
        ConfigError: if a context is out of range.
        DataError: if fields cannot be read; all are listed.
    """
    check_contexts(contexts)
    listing = CellListing(folder, class_texts=list(dataset.class_names))
    for name in dataset.class_names:
        (folder / name).mkdir(parents=True, exist_ok=True)

    def cut(image: CocoImage) -> list[CellFile]:
        field = read_image(image.file_name)
        stem = Path(image.file_name).stem
        files = []
        for index, context in _boxes(image, contexts):
            class_name = dataset.class_names[int(image.labels[index])]
            file = folder / class_name / f"{stem}_{image.id}_{index}_{context:g}.png"
            save_crop(cut_cell(field, image.boxes[index], context), file)
            files.append(CellFile(file, class_name, group=f"{stem}_{image.id}"))
        return files

    for files in map_images(cut, dataset.images, dataset.source):
        listing.files += files
    return listing


def save_crop(crop: RgbImage, file: Path) -> None:
    """Writes a crop as PNG, quickly rather than small."""
    Image.fromarray(np.ascontiguousarray(crop)).save(file, compress_level=1)


def _boxes(image: CocoImage, contexts: Sequence[float]) -> Iterator[tuple[int, float]]:
    for index in np.flatnonzero(~image.crowd):
        for context in contexts:
            yield int(index), context


def _shift(center: float, side: int, length: int) -> int:
    """Returns the start of an interval around a center, shifted into [0, length)."""
    return min(max(math.floor(center - side / 2 + 0.5), 0), length - side)
