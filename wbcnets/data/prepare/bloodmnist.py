"""BloodMNIST as MedMNIST publishes it: arrays of images and labels per split in an npz file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.errors import DataError
from wbcnets.io.archives import check_zip_members

_SPLITS = ("train", "val", "test")


def list_bloodmnist(source: Path, card: ClassificationCard, scratch: Path) -> CellListing:
    """Writes the images of an npz file as PNG files and lists them with the splits of the file.

    Args:
        source: The file, with ``<split>_images`` ``(N, H, W, 3)`` uint8 and ``<split>_labels``
            ``(N, 1)`` or ``(N,)`` integers for the splits train, val and test. Each size is a
            dataset of its own, named after the file: bloodmnist, bloodmnist_64, ...
        card: The classes.
        scratch: The folder for ``<split>/<class>/<number>.png``.

    Raises:
        DataError: if it is no such file, or its arrays have other shapes, types or labels; all
            problems are listed. Pickled objects are never loaded.
    """
    arrays = _load(source)
    problems = [line for split in _SPLITS for line in _check(split, arrays, len(card.classes))]
    if problems:
        raise DataError(f"{source}: is no MedMNIST file of {len(card.classes)} classes", problems)
    name = source.stem if source.stem.startswith(card.name) else card.name
    listing = CellListing(scratch, class_texts=list(card.class_names), name=name)
    for split in _SPLITS:
        for class_name in card.class_names:
            (scratch / split / class_name).mkdir(parents=True, exist_ok=True)
        labels = arrays[f"{split}_labels"].reshape(-1)
        for number, (image, label) in enumerate(zip(arrays[f"{split}_images"], labels)):
            class_name = card.class_names[int(label)]
            file = scratch / split / class_name / f"{split}_{number:05d}.png"
            Image.fromarray(image).save(file, compress_level=1)
            listing.files.append(CellFile(file, class_name, split))
    return listing


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file - download it from the dataset's source")
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip_members(path, archive.infolist())
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
