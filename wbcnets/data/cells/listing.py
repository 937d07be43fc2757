"""Lists of cell images from class folders, split folders of class folders, and tables.

Layouts of a folder:

    <class>/<image>                  basophil/BA_1.jpg
    <split>/<class>/<image>          train/basophil/BA_1.jpg; splits by any name of ``SPLIT_NAMES``

A table is a CSV file with the columns file and label, and optionally split and group; its paths
start from its folder. Links, hidden files and system folders are ignored and named.
"""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wbcnets.data.cards.classes import explain_class_name
from wbcnets.data.cells.manifest import path_problem
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.image_files import is_image_name, list_folder, natural_order
from wbcnets.io.tables import read_text

# Folder name in lower case -> name of the split in manifests
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
        path: The file.
        class_text: The name of its class folder, or its label in the table.
        split: "train", "val", "test", "fold0", ...; empty if the source has no splits.
        group: Patient or slide; empty if unknown.
    """

    path: Path
    class_text: str
    split: str = ""
    group: str = ""


@dataclass
class CellListing:
    """The contents of a source.

    Args:
        root: The folder that paths are relative to.
        files: The images.
        class_texts: All classes in natural order, those of empty folders included.
        ignored: Files and folders that are not used, one line each.
        name: The name of the dataset, if the source tells.
    """

    root: Path
    files: list[CellFile] = field(default_factory=list)
    class_texts: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    name: str = ""


def list_cells(source: str | os.PathLike[str], group_pattern: str = "") -> CellListing:
    """Lists the cell images of a folder or a CSV table; nothing is decoded.

    Args:
        source: The folder or the table.
        group_pattern: Regular expression, searched in each file name, whose group "group" is the
            patient or slide. The column "group" of a table takes precedence.

    Raises:
        DataError: if there is no such source, its layout is ambiguous, or rows are wrong; all
            problems are listed.
        ConfigError: if the pattern is not a regular expression with a group "group".
    """
    path = Path(source)
    pattern = compile_group_pattern(group_pattern)
    if os.path.isdir(path):
        listing = _list_folder(path)
    elif os.path.isfile(path) and path.suffix.lower() == ".csv":
        listing = _list_table(path)
    elif os.path.exists(path):
        raise DataError(
            f"{path}: is neither a folder nor a CSV file - unpack archives with "
            "`wbcnets prepare cells`"
        )
    else:
        raise DataError(f"{path}: there is no such folder or file - correct the path")
    odd = [problem for problem in map(explain_class_name, listing.class_texts) if problem]
    if odd:
        raise DataError(f"{path}: {len(odd)} class names cannot be used", odd)
    if pattern is not None:
        for index, file in enumerate(listing.files):
            found = pattern.search(file.path.name)
            if found and not file.group:
                listing.files[index] = replace(file, group=found.group("group"))
    return listing


def compile_group_pattern(text: str) -> re.Pattern[str] | None:
    """Compiles a pattern with a group "group"; returns None for an empty text.

    Raises:
        ConfigError: if it is not a regular expression, or has no such group.
    """
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"group pattern {text!r} is not a regular expression: {error}", setting="group_pattern"
        ) from error
    if "group" not in pattern.groupindex:
        raise ConfigError(
            f"group pattern {text!r} needs a part (?P<group>...) for the patient",
            setting="group_pattern",
        )
    return pattern


def _list_folder(folder: Path) -> CellListing:
    root = _inside_wrappers(folder)
    listing = CellListing(root)
    folders, images = _entries(root, listing.ignored)
    problems = [f"{path.relative_to(folder)}: lies outside the class folders" for path in images]
    splits = {path: _split_name(path.name) for path in folders}
    if folders and all(splits.values()):
        for path in folders:
            inner, images = _entries(path, listing.ignored)
            problems += [f"{path.name}/{image.name}: has no class folder" for image in images]
            problems += [f"{path.name}: has no class folder"] * (not inner)
            problems += _list_classes(listing, inner, splits[path] or "")
        problems += _same_split_twice(splits)
    else:
        named = [path.name for path in folders if splits[path]]
        if named:
            problems.append(f"{', '.join(named)}: a split beside classes - move it or rename it")
        problems += _list_classes(listing, folders, "")
    listing.class_texts.sort(key=natural_order)
    if not listing.files and not problems:
        problems.append("there is no image in it")
    if problems:
        raise DataError(
            f"{folder}: expected <class>/<image> or <split>/<class>/<image>", sorted(problems)
        )
    return listing


def _inside_wrappers(folder: Path) -> Path:
    """Returns the innermost of folders that each hold only one other folder of folders."""
    for _ in range(_MAX_WRAPPERS):
        folders, images = _entries(folder)
        if len(folders) != 1 or images or _split_name(folders[0].name):
            break
        if not _entries(folders[0])[0]:  # the only folder is a class
            break
        folder = folders[0]
    return folder


def _list_classes(listing: CellListing, folders: Sequence[Path], split: str) -> list[str]:
    """Adds the images of class folders; returns the problems."""
    problems = []
    for path in folders:
        inner, files = _entries(path, listing.ignored)
        problems += [f"{entry.relative_to(listing.root)}: a folder in a class" for entry in inner]
        if path.name not in listing.class_texts:
            listing.class_texts.append(path.name)
        listing.files += [CellFile(file, path.name, split) for file in files]
    return problems


def _entries(folder: Path, ignored: list[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Returns the folders and the images in a folder, and adds all others to ``ignored``."""
    entries = list_folder(folder)
    images = [path for path in entries.files if is_image_name(path.name)]
    others = [path for path in entries.files if not is_image_name(path.name)]
    if ignored is not None:
        for paths, kind in (
            (entries.hidden, "hidden or system file"),
            (entries.links, "link"),
            (entries.special, "pipe, socket or device"),
            (others, "no image by its suffix"),
        ):
            ignored += [f"{path.relative_to(folder.parent)}: {kind}" for path in paths]
    return entries.folders, images


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
        text = read_text(path, "the table")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if not {"file", "label"} <= set(columns):
            raise DataError(f"{path}:1: needs the columns file and label, found {columns}")
        if len(set(columns)) < len(columns):
            raise DataError(f"{path}:1: two columns have the same name in {columns} - rename one")
        for row in reader:
            cells = {k: (v or "").strip() for k, v in row.items() if isinstance(v, str | None)}
            problems += _add_row(listing, cells, reader.line_num, None in row)
    except csv.Error as error:
        raise DataError(f"{path}: is not a readable CSV table ({error})") from error
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
