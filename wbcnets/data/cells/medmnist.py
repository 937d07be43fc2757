"""Images from a MedMNIST file: arrays of images and labels per split, in numpy's npz format."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wbcnets.data.cards.classes import CellCard
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.prepare.sources import refuse_members
from wbcnets.errors import DataError

_SPLITS = ("train", "val", "test")


def unpack_medmnist(source: str | os.PathLike[str], card: CellCard, target: Path) -> CellListing:
    """Writes the images of an npz file as PNG files.

    Args:
        source: The file, with `<split>_images` `(N, H, W, 3)` uint8 and `<split>_labels` `(N, 1)`
            or `(N,)` integers for the splits train, val and test.
        card: The classes.
        target: Folder for `<split>/<class>/<number>.png`.

    Returns:
        The images, with the splits of the file.

    Raises:
        DataError: It is no such file, or its arrays have other shapes, types or labels; all
            problems are listed. Pickled objects are never loaded.
    """
    path = Path(source)
    arrays = _load(path)
    problems = []
    for split in _SPLITS:
        problems += _check(split, arrays, len(card.classes))
    if problems:
        raise DataError(f"{path}: is no MedMNIST file of {len(card.classes)} classes", problems)
    listing = CellListing(target, class_texts=list(card.class_names))
    for split in _SPLITS:
        for name in card.class_names:
            (target / split / name).mkdir(parents=True, exist_ok=True)
        labels = arrays[f"{split}_labels"].reshape(-1)
        for number, (image, label) in enumerate(zip(arrays[f"{split}_images"], labels)):
            name = card.class_names[int(label)]
            file = target / split / name / f"{split}_{number:05d}.png"
            Image.fromarray(image).save(file, compress_level=1)
            listing.files.append(CellFile(file, name, split))
    return listing


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file - get it from the set's source")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_members(path, archive.infolist())
        with np.load(path, allow_pickle=False) as content:
            wanted = [f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")]
            return {name: content[name] for name in wanted if name in content.files}
    except DataError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as an npz file ({error})") from error


def _check(split: str, arrays: dict[str, Any], n_classes: int) -> list[str]:
    images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
    if images is None or labels is None:
        return [f"{split}_images or {split}_labels is missing"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        return [f"{split}_images is {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)"]
    if labels.dtype.kind not in "iu" or labels.size != len(images):
        return [f"{split}_labels is {labels.dtype} {labels.shape} for {len(images)} images"]
    if labels.size and not (labels.min() >= 0 and labels.max() < n_classes):
        return [f"{split}_labels run from {labels.min()} to {labels.max()}"]
    return []
