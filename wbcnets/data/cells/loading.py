"""Cell images by name, manifest, table or folder: `load_cells`, and the types it gives."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import CELL_CARDS
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cards.detection import ROOT_VARIABLE, dataset_root
from wbcnets.data.cells.checks import check_cells
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.cells.manifest import (
    MANIFEST_NAME,
    CellImage,
    CellManifest,
    is_manifest,
    read_manifest,
    verify_hashes,
    write_manifest,
)
from wbcnets.errors import DataError

__all__ = [
    "MANIFEST_NAME",
    "CellImage",
    "CellManifest",
    "is_prepared",
    "load_cells",
    "read_manifest",
    "verify_hashes",
    "write_manifest",
]

_LOGGER = logging.getLogger(__name__)


def load_cells(
    source: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    group_pattern: str = "",
) -> CellManifest:
    """Finds cell images.

    A prepared set was checked when it was written. A folder or table is checked now: every image is
    decoded, and what cannot be used is an error, since nothing may be left out of an evaluation in
    silence; `datasets/prepare_cells.py` leaves it out and counts it.

    Args:
        source: The name of a prepared set such as "pbc", a manifest, a folder that holds one, a
            folder of class folders or of split and class folders, or a table with the columns
            file, label and if wanted split and group.
        class_names: For a folder or table, the classes in the order of their labels, such as those
            of a model; names are compared without case, and every class must be one of them. By
            default its own, in natural order. A manifest must have them in this order.
        root: Folder of the prepared sets, see `wbcnets.data.cards.detection.dataset_root`.
        group_pattern: See `wbcnets.data.cells.listing.list_cells`.

    Returns:
        The images; their split is empty where the source has no splits.

    Raises:
        DataError: There is nothing of this kind, or it has problems; all are listed.
    """
    path = _find(source, root)
    if path.is_file() and is_manifest(path):
        manifest = read_manifest(path)
        if class_names is not None and manifest.class_names != tuple(class_names):
            raise DataError(
                f"{path}: its classes are {', '.join(manifest.class_names)}, expected "
                f"{', '.join(class_names)} - use a set with the same classes, or a class map"
            )
        return manifest
    listing = list_cells(path, group_pattern)
    table = ClassTable(class_names if class_names is not None else listing.class_texts)
    checked = check_cells(path.stem, listing, table, drop_unusable=False)
    for note in checked.report.notes:
        _LOGGER.warning("%s: %s", path, note)
    return checked.manifest


def is_prepared(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a set that was checked when its manifest was written."""
    path = _find(source, None)
    return path.is_file() and is_manifest(path)


def _find(source: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Path:
    """The manifest, table or folder that `source` means: a path that exists goes before a name."""
    path = Path(source)
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        return path / MANIFEST_NAME
    if path.exists():
        return path
    text = os.fspath(source)
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"{path}: there is no such folder or file - correct the path")
    prepared = dataset_root(root) / text / MANIFEST_NAME
    if prepared.is_file():
        return prepared
    card = CELL_CARDS.get(text)
    if card is None:
        raise DataError(
            f'"{text}": is no file or folder, no set in {dataset_root(root)}, and no known set - '
            f"known are {', '.join(CELL_CARDS)}"
        )
    raise DataError(
        f"{prepared}: does not exist - run `{card.prepare}`, or name the folder of the datasets in "
        f"{ROOT_VARIABLE}"
    )
