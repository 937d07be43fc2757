"""Where cell images come from: class folders, split and class folders, and tables.

Layouts of a folder:

    <class>/<image>                  basophil/BA_1.jpg
    <split>/<class>/<image>          train/basophil/BA_1.jpg; any names of `SPLIT_NAMES`

A table is a CSV file with the columns file and label, and if wanted split and group; its paths
start from its folder. Links are not followed, hidden files and system folders are passed over.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wbcnets.data.cells.manifest import path_problem
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.image_files import is_image_name, list_folder, natural_order

# Folder name in lower case -> the split's name in manifests
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "testa": "test",
    "testb": "testb",
}
_FOLD = re.compile(r"fold[_ -]?(\d+)", re.IGNORECASE)
_MAX_WRAPPERS = 3


@dataclass(frozen=True)
class CellFile:
    """One file as its source names it.

    Args:
        path: Where it lies.
        class_text: Its class by folder or label.
        split: "train", "val", "test", "fold0", ...; empty where the source has no splits.
        group: Patient or slide; empty where unknown.
    """

    path: Path
    class_text: str
    split: str = ""
    group: str = ""


@dataclass
class CellListing:
    """What a source holds.

    Args:
        root: Folder that paths are named from.
        files: Its images.
        class_texts: All classes, those of empty folders included, each in its natural order.
        ignored: Files and folders passed over, one line each.
    """

    root: Path
    files: list[CellFile] = field(default_factory=list)
    class_texts: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def list_cells(source: str | os.PathLike[str], group_pattern: str = "") -> CellListing:
    """Lists the cell images of a folder or a CSV table; nothing is decoded.

    Args:
        source: The folder or the table.
        group_pattern: Regular expression, searched in each file's name, whose group "group" is the
            patient or slide. A table's column "group" goes before it.

    Raises:
        DataError: There is no such source, its layout is ambiguous, or rows are wrong; all
            problems are listed.
        ConfigError: The pattern is no regular expression with a group "group".
    """
    path = Path(source)
    pattern = compile_group_pattern(group_pattern)
    if path.is_dir():
        listing = _list_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        listing = _list_table(path)
    elif path.exists():
        raise DataError(
            f"{path}: is neither a folder nor a CSV file - unpack archives with "
            "`python datasets/prepare_cells.py --source ...`"
        )
    else:
        raise DataError(f"{path}: there is no such folder or file - correct the path")
    if pattern is not None:
        listing.files = [_with_group(file, pattern) for file in listing.files]
    return listing


def compile_group_pattern(text: str) -> re.Pattern[str] | None:
    """Compiles a pattern with a group "group"; None for an empty text.

    Raises:
        ConfigError: It is no regular expression, or has no such group.
    """
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"group pattern {text!r} is no regular expression: {error}") from error
    if "group" not in pattern.groupindex:
        raise ConfigError(f"group pattern {text!r} needs a part (?P<group>...) for the patient")
    return pattern


def _with_group(file: CellFile, pattern: re.Pattern[str]) -> CellFile:
    found = pattern.search(file.path.name)
    if file.group or found is None:
        return file
    return CellFile(file.path, file.class_text, file.split, found.group("group"))


def _list_folder(folder: Path) -> CellListing:
    root = folder
    for _ in range(_MAX_WRAPPERS):
        folders, images = _entries(root)
        if len(folders) != 1 or images or _split_name(folders[0].name) or not _inner(folders[0]):
            break
        root = folders[0]
    listing = CellListing(root)
    folders, images = _entries(root, listing.ignored)
    problems = [f"{path.relative_to(folder)}: lies outside the class folders" for path in images]
    splits = {path: _split_name(path.name) for path in folders}
    if folders and all(splits.values()):
        for path in folders:
            problems += _list_classes(listing, path, splits[path] or "")
        problems += _same_split_twice(splits)
    else:
        named = [path.name for path in folders if splits[path]]
        if named:
            problems.append(f"{', '.join(named)}: a split beside classes - move it or rename it")
        problems += _list_classes(listing, root, "")
    listing.class_texts.sort(key=natural_order)
    listing.ignored = list(dict.fromkeys(listing.ignored))  # the root was looked at twice
    if not listing.files and not problems:
        problems.append("there is no image in it")
    if problems:
        raise DataError(
            f"{folder}: expected <class>/<image> or <split>/<class>/<image>", sorted(set(problems))
        )
    return listing


def _list_classes(listing: CellListing, folder: Path, split: str) -> list[str]:
    problems = []
    folders, images = _entries(folder, listing.ignored)
    if split:
        problems += [f"{folder.name}/{path.name}: has no class folder" for path in images]
        problems += [f"{folder.name}: has no class folder"] * (not folders)
    for path in folders:
        inner, files = _entries(path, listing.ignored)
        place = path.relative_to(listing.root)
        problems += [f"{place}/{entry.name}: a folder in a class" for entry in inner]
        if path.name not in listing.class_texts:
            listing.class_texts.append(path.name)
        listing.files += [CellFile(file, path.name, split) for file in files]
    return problems


def _entries(folder: Path, ignored: list[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Returns the folders and images in a folder; what is passed over is noted."""
    entries = list_folder(folder)
    images = [path for path in entries.files if is_image_name(path.name)]
    others = [path for path in entries.files if not is_image_name(path.name)]
    if ignored is not None:
        for paths, kind in (
            (entries.hidden, "hidden or system file"),
            (entries.links, "link"),
            (others, "no image by its suffix"),
        ):
            ignored += [f"{path.relative_to(folder.parent)}: {kind}" for path in paths]
    return entries.folders, images


def _inner(folder: Path) -> bool:
    return bool(_entries(folder)[0])


def _split_name(name: str) -> str | None:
    fold = _FOLD.fullmatch(name)
    return f"fold{int(fold.group(1))}" if fold else SPLIT_NAMES.get(name.casefold())


def _same_split_twice(splits: dict[Path, str | None]) -> list[str]:
    by_name = defaultdict(list)
    for path, split in splits.items():
        by_name[split].append(path.name)
    return [
        f"{', '.join(names)}: both are the split {split}"
        for split, names in by_name.items()
        if len(names) > 1
    ]


def _list_table(path: Path) -> CellListing:
    listing = CellListing(path.parent)
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            if not {"file", "label"} <= set(columns):
                raise DataError(f"{path}:1: needs the columns file and label, found {columns}")
            for row in reader:
                cells = {k: (v or "").strip() for k, v in row.items() if isinstance(v, str | None)}
                problems += _add_row(listing, cells, reader.line_num, None in row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no readable CSV table ({error})") from error
    problems += _repeated_files(listing.files)
    listing.class_texts = sorted({file.class_text for file in listing.files}, key=natural_order)
    if not listing.files and not problems:
        problems.append("there is no row in it")
    if problems:
        raise DataError(f"{path}: {len(problems)} problems", problems)
    return listing


def _add_row(
    listing: CellListing, cells: dict[str, str], line: int, too_many: bool
) -> Sequence[str]:
    file, label = cells.get("file", ""), cells.get("label", "")
    problem = path_problem(file)
    if too_many:
        problem = "has more cells than the first line"
    elif not problem and not label:
        problem = f"{file}: the label is empty"
    elif not problem and not (listing.root / file).is_file():
        problem = f"{file}: does not exist"
    if problem:
        return [f"line {line}: {problem}"]
    split = cells.get("split", "")
    split = _split_name(split) or split
    listing.files.append(CellFile(listing.root / file, label, split, cells.get("group", "")))
    return []


def _repeated_files(files: Iterable[CellFile]) -> list[str]:
    labels = defaultdict(list)
    for file in files:
        labels[file.path].append(file.class_text)
    return [
        f"{path.name} is listed {len(found)} times, as {', '.join(sorted(set(found)))}"
        for path, found in labels.items()
        if len(found) > 1
    ]
