"""A repaired copy of a dataset: what can be used, and a list of what was mended and left out."""

import json
import shutil
from pathlib import Path

from wbcnets.data.cells.copying import copy_cells
from wbcnets.data.cells.manifest import MANIFEST_NAME
from wbcnets.data.check.checking import total_counts
from wbcnets.data.check.results import CheckResult, SetResult
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.strict_json import write_json

_README = """\
A repaired copy, written by `wbcnets check --fix-to`. The original files were only read.

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
        result: Of a check with `CheckOptions.repair`.
        folder: A new or empty folder.

    Returns:
        What can be given to training: a JSON file or a manifest for each set.

    Raises:
        ConfigError: if the folder is in use.
        DataError: if a set cannot be used even so, or two sets would get one name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty - name a new folder")
    unusable = [
        line for entry in result.sets for line in ([entry.error] if entry.error else entry.problems)
    ]
    if unusable:
        raise DataError(
            f"nothing was written to {folder}: {len(unusable)} problems have no certain repair",
            unusable,
        )
    names = _names(result.sets)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
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
        shutil.copyfile(source, target)
    dataset.save(folder / "annotations.json")
    return folder / "annotations.json"


def _write_reports(result: CheckResult, folder: Path, written: list[Path]) -> None:
    write_json(result.as_dict(), folder / "report.json")
    lines = []
    for entry in result.sets:
        for kind, entries in (
            ("dropped image", entry.dropped_images),
            ("dropped", entry.dropped),
            ("repaired", entry.repaired),
        ):
            lines += [f"{kind}: {line}" for line in entries]
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(folder / "repairs.txt", lambda file: file.write(_encoded(text)))
    sets = "".join(f"{path.relative_to(folder)}\n" for path in written)
    readme = _README.format(sets=sets, counts=total_counts(result.sets))
    write_atomically(folder / "README.txt", lambda file: file.write(_encoded(readme)))


def _encoded(text: str) -> bytes:
    """Names of files need not be valid UTF-8."""
    return text.encode("utf-8", errors="backslashreplace")


def dump(result: CheckResult) -> str:
    """The findings as indented JSON, in which any file name can be written."""
    return json.dumps(result.as_dict(), indent=1, ensure_ascii=True)
