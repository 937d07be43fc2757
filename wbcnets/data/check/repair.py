"""Writes a repaired copy of datasets, and a list of every repaired or dropped item."""

from pathlib import Path

from wbcnets.data.cells.copying import copy_cells
from wbcnets.data.cells.manifest import MANIFEST_NAME
from wbcnets.data.check.results import CheckResult, SetResult
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.report import Counts
from wbcnets.errors import DataError
from wbcnets.io.atomic_files import copy_atomically, write_text
from wbcnets.io.outputs import claim_folder, write_readme

FIX_COMMAND = "check"
_README = """\
A repaired copy. The original files were only read.

{sets}
report.json   all counts, and one line for every item that was repaired or left out
repairs.txt   the same lines, to read

{counts}
"""


def write_repaired(result: CheckResult, folder: Path) -> list[Path]:
    """Writes the usable part of all sets.

    Boxes become COCO's JSON beside a folder of images; cells become class folders with a manifest.
    Images are copied byte by byte.

    Args:
        result: Of a check with the policy "skip".
        folder: A new or empty folder, see ``check_folder``.

    Returns:
        The files that training can use: a JSON file or a manifest for each set.

    Raises:
        DataError: if a set has problems even so, or two sets would get one name.
    """
    unusable = [
        line for entry in result.sets for line in ([entry.error] if entry.error else entry.problems)
    ]
    if unusable:
        raise DataError(
            f"nothing was written to {folder}: {len(unusable)} problems have no certain repair",
            unusable,
        )
    names = _names(result.sets)
    written = []
    with claim_folder(folder, FIX_COMMAND, setting="fix_to"):
        for entry, name in zip(result.sets, names):
            target = folder / name if len(result.sets) > 1 else folder
            written.append(_write_set(entry, target))
        _write_reports(result, folder, written)
    return written


def _names(sets: list[SetResult]) -> list[str]:
    names = [Path(entry.name).resolve().stem for entry in sets]
    if len(set(names)) < len(names):
        raise DataError(
            f"two sets have the same name ({', '.join(names)}) - repair them one by one"
        )
    return names


def _write_set(entry: SetResult, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if entry.dataset is not None:
        return _write_boxes(entry.dataset, folder)
    if entry.cells is None:
        raise DataError(f"{entry.name}: nothing of it can be used")
    copy_cells(entry.cells.manifest, folder)
    return folder / MANIFEST_NAME


def _write_boxes(dataset: CocoDataset, folder: Path) -> Path:
    for image in dataset.images:
        source = Path(image.file_name)
        target = folder / "images" / source.relative_to(dataset.image_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_atomically(source, target)
    dataset.save(folder / "annotations.json")
    return folder / "annotations.json"


def _write_reports(result: CheckResult, folder: Path, written: list[Path]) -> None:
    counts = [entry.counts for entry in result.sets if entry.counts is not None]
    sets = "".join(f"{path.relative_to(folder)}\n" for path in written)
    changes = [line for entry in result.sets for line in entry.changes()]
    for name, text in (
        ("report.json", result.to_json()),
        ("repairs.txt", "".join(f"{line}\n" for line in changes)),
    ):
        write_text(folder / name, text)
    counted = sum(counts, Counts(0, 0, 0, 0))
    write_readme(folder, FIX_COMMAND, _README.format(sets=sets, counts=counted))
