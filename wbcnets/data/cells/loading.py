"""``load_cells``: cell images by name, manifest, table or folder."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wbcnets.data.cards import unknown_name
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cards.paths import dataset_root, not_prepared
from wbcnets.data.cells.checks import check_cells
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.cells.manifest import MANIFEST_NAME, CellManifest, is_manifest, read_manifest
from wbcnets.errors import DataError

_LOGGER = logging.getLogger(__name__)


def load_cells(
    source: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    group_pattern: str = "",
) -> CellManifest:
    """Returns the cell images of a source.

    A prepared dataset was checked when it was written. A folder or table is checked now: every
    image is decoded, and unusable images are an error, because an evaluation must not leave out
    images silently. ``wbcnets prepare cells`` leaves them out and names them.

    Args:
        source: The name of a prepared dataset such as "pbc", a manifest, a folder with a manifest,
            a folder of class folders or of split and class folders, or a table with the columns
            file, label and optionally split and group. "pbc+mine" joins two or more; equal names of
            splits are one split.
        class_names: The classes in the order of their labels, such as those of a model. A manifest
            must have exactly these. The classes of a folder or table must be among them; names are
            compared by ``ClassTable``. By default the classes of the source in natural order.
        root: The folder of the prepared datasets, see ``wbcnets.data.cards.paths.dataset_root``.
        group_pattern: See ``wbcnets.data.cells.listing.list_cells``.

    Returns:
        The images; their split is empty if the source has no splits.

    Raises:
        DataError: if there is no such source, or it has problems; all are listed.
    """
    parts = _joined(source, root)
    if len(parts) > 1:
        options: dict[str, Any] = {"root": root, "group_pattern": group_pattern}
        return join_manifests([load_cells(part, class_names, **options) for part in parts])
    path = _find(source, root)
    if path.is_file() and is_manifest(path):
        manifest = read_manifest(path)
        if class_names is not None and manifest.class_names != tuple(class_names):
            raise DataError(
                f"{path}: its classes are {', '.join(manifest.class_names)}, expected "
                f"{', '.join(class_names)} - use a dataset with the same classes, or a class map"
            )
        return manifest
    listing = list_cells(path, group_pattern)
    table = ClassTable(class_names if class_names is not None else listing.class_texts)
    checked = check_cells(path.stem, listing, table, policy="refuse")
    for note in checked.report.notes:
        _LOGGER.warning("%s: %s", path, note)
    return checked.manifest


def is_prepared(source: str | os.PathLike[str]) -> bool:
    """Tells whether a source is a prepared dataset, which was checked when it was written."""
    if len(_joined(source, None)) > 1:
        return False  # the parts were not compared with each other
    path = _find(source, None)
    return os.path.isfile(path) and is_manifest(path)


def join_manifests(manifests: Sequence[CellManifest]) -> CellManifest:
    """Returns the images of several manifests as one; classes of the same name are one class.

    Args:
        manifests: One or more.
    """
    names = list(dict.fromkeys(name for part in manifests for name in part.class_names))
    root = Path(os.path.commonpath([part.root.resolve() for part in manifests]))
    images = tuple(
        replace(
            image,
            file=part.path(image).resolve().relative_to(root).as_posix(),
            label=names.index(part.class_names[image.label]),
        )
        for part in manifests
        for image in part.images
    )
    return CellManifest("+".join(part.name for part in manifests), root, tuple(names), images)


def _joined(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None
) -> list[str | os.PathLike[str]]:
    """Returns the parts of a source such as "pbc+mine", or the source alone."""
    text = os.fspath(source)
    if "+" not in text or os.path.exists(text) or (dataset_root(root) / text).exists():
        return [source]
    return [part.strip() for part in text.split("+")]


def _find(source: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Path:
    """Returns the manifest, table or folder of a source; an existing path goes before a name."""
    path = Path(source)
    if os.path.isdir(path) and (path / MANIFEST_NAME).is_file():
        return path / MANIFEST_NAME
    if os.path.exists(path):
        return path
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"{path}: there is no such folder or file - correct the path")
    name, folder = os.fspath(source), dataset_root(root)
    prepared = folder / name / MANIFEST_NAME
    if os.path.isfile(prepared):
        return prepared
    if name in CLASSIFICATION_CARDS:
        raise not_prepared(name, prepared)
    raise DataError(f"there is no such path, and {unknown_name(name, CLASSIFICATION_CARDS)}")
