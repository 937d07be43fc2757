"""Manifests: the images of a dataset with their class, split, patient and hash.

A manifest is a CSV file beside its images. The first line is a header, the rest is a table:

    # wbcnets manifest 1 {"name": "pbc", "class_names": ["basophil", ...]}
    file,class,split,group,sha256
    images/train/basophil/BA_100102.jpg,basophil,train,,5f2c...
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wbcnets.data.cards.classes import explain_class_name
from wbcnets.errors import DataError
from wbcnets.io.atomic_files import sha256_of_file, write_text
from wbcnets.io.parallel import map_images
from wbcnets.io.tables import format_csv, format_table, read_cell, read_text

MANIFEST_NAME = "manifest.csv"
_MAGIC = "# wbcnets manifest 1 "
_COLUMNS = ("file", "class", "split", "group", "sha256")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CellImage:
    """One image of one cell.

    Args:
        file: Path relative to the root of the manifest, with forward slashes.
        label: Index into the class names of the manifest.
        split: "train", "val", "test", "fold0", ...; empty before the split.
        group: Patient or slide; empty if unknown.
        sha256: Hash of the bytes of the file.
    """

    file: str
    label: int
    split: str = ""
    group: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class CellManifest:
    """The images of a dataset.

    Args:
        name: The name of the dataset.
        root: The folder that the paths of the images start from.
        class_names: The classes in the order of their labels; a class may have no images.
        images: The images.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    images: tuple[CellImage, ...]

    def split(self, name: str) -> "CellManifest":
        """Returns the images of one split, or of several such as "fold1+fold2".

        All class names stay.

        Raises:
            DataError: if a split has no image; the message lists the splits.
        """
        wanted = [part.strip() for part in name.split("+")]
        for part in wanted:
            if not any(image.split == part for image in self.images):
                known = ", ".join(
                    f"{key or '(none)'} {count}" for key, count in self.splits.items()
                )
                raise DataError(
                    f'{self.name}: no image is in the split "{part}" - known are: {known}'
                )
        images = (image for part in wanted for image in self.images if image.split == part)
        return replace(self, images=tuple(images))

    @property
    def splits(self) -> dict[str, int]:
        """Split name -> number of images, sorted by name."""
        return dict(sorted(Counter(image.split for image in self.images).items()))

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return [image.label for image in self.images]

    def counts(self) -> tuple[int, ...]:
        """Returns the number of images per class."""
        found = Counter(image.label for image in self.images)
        return tuple(found[label] for label in range(len(self.class_names)))

    def path(self, image: CellImage) -> Path:
        """Returns the path of an image."""
        return self.root / image.file

    def table(self) -> str:
        """Returns the images per class and split as text."""
        splits = list(self.splits)
        found = Counter((image.label, image.split) for image in self.images)
        rows = [["class", *(split or "images" for split in splits), "all"]]
        for label, name in enumerate(self.class_names):
            counts = [found[label, split] for split in splits]
            rows.append([name, *map(str, counts), str(sum(counts))])
        rows.append(["all", *map(str, self.splits.values()), str(len(self.images))])
        if len(splits) < 2:
            rows = [row[:-1] for row in rows]
        return format_table(rows)


def write_manifest(manifest: CellManifest, path: str | os.PathLike[str]) -> None:
    """Writes a manifest; an existing file is replaced atomically.

    Args:
        manifest: Its root must be the folder of ``path``.
        path: The CSV file.

    Raises:
        DataError: if the root is another folder, or ``read_manifest`` would refuse the result.
    """
    target = Path(path)
    if manifest.root.resolve() != target.parent.resolve():
        raise DataError(
            f"{target}: the paths of {manifest.name} start from {manifest.root} - write the "
            "manifest there"
        )
    header = {"name": manifest.name, "class_names": list(manifest.class_names)}
    names = manifest.class_names
    rows = [
        (image.file, names[image.label], image.split, image.group, image.sha256)
        for image in manifest.images
    ]
    text = f"{_MAGIC}{json.dumps(header, ensure_ascii=False)}\n{format_csv([_COLUMNS, *rows])}"
    _parse(text, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)


def read_manifest(path: str | os.PathLike[str], *, must_exist: bool = True) -> CellManifest:
    """Reads a manifest.

    Args:
        path: The CSV file; its folder is the root of the manifest.
        must_exist: Whether a missing image is a problem.

    Raises:
        DataError: if it is not a manifest, or rows are wrong; all problems are listed.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: the manifest does not exist - prepare the dataset first")
    manifest = _parse(read_text(source, "the manifest"), source)
    if must_exist:
        missing = [image.file for image in manifest.images if not manifest.path(image).is_file()]
        if missing:
            raise DataError(
                f"{source}: {len(missing)} of {len(manifest.images)} images are missing - move "
                "the manifest together with its images, or prepare the dataset again",
                missing,
            )
    return manifest


def is_manifest(path: Path) -> bool:
    """Tells whether a file starts like a manifest."""
    with path.open("rb") as stream:
        return (
            stream.read(len(_MAGIC) + 3).removeprefix(b"\xef\xbb\xbf").startswith(_MAGIC.encode())
        )


def verify_hashes(manifest: CellManifest) -> None:
    """Compares every image with its hash.

    Raises:
        DataError: if images changed after the manifest was written; all are named.
    """

    def check(image: CellImage) -> None:
        found = sha256_of_file(manifest.path(image))
        if found != image.sha256:
            expected = image.sha256 or "none recorded"
            raise DataError(f"{image.file}: sha256 {found}, expected {expected}")

    map_images(check, manifest.images, manifest.name, "were changed")


def path_problem(file: str) -> str | None:
    """Returns the reason to refuse a path in a table, or None."""
    if not file:
        return "the path is empty"
    if "\\" in file or "\0" in file:
        return f'path "{file}" has a backslash or a null byte - use forward slashes'
    if PurePosixPath(file).is_absolute() or re.match(r"[A-Za-z]:", file):
        return f'path "{file}" is absolute - write it relative to the folder of the table'
    if ".." in PurePosixPath(file).parts:
        return f'path "{file}" leads out of the folder'
    return None


def _parse(text: str, source: Path) -> CellManifest:
    first, _, rest = text.partition("\n")
    name, class_names = _parse_header(first.rstrip("\r"), source)
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    reader = csv.reader(io.StringIO(rest), strict=True)
    problems: list[str] = []
    images: list[CellImage] = []
    try:
        if next(reader, None) != list(_COLUMNS):
            raise DataError(f"{source}:2: expected the columns {','.join(_COLUMNS)}")
        for row in reader:
            parsed = _parse_row(row, labels)
            if isinstance(parsed, CellImage):
                images.append(parsed)
            else:
                problems += [f"line {reader.line_num + 1}: {line}" for line in parsed]
    except csv.Error as error:
        problems.append(f"line {reader.line_num + 1}: {error}")
    problems += _repeated(PurePosixPath(image.file).as_posix() for image in images)
    if not images and not problems:
        problems.append("there is no image in it")
    if problems:
        raise DataError(f"{source}: the manifest cannot be used - prepare it again", problems)
    return CellManifest(name, source.parent, class_names, tuple(images))


def _parse_header(line: str, source: Path) -> tuple[str, tuple[str, ...]]:
    if not line.startswith(_MAGIC):
        raise DataError(
            f'{source}:1: is no manifest of this version, it starts with "{line[:60]}" - expected '
            f'"{_MAGIC.strip()} {{...}}"'
        )
    try:
        header: Any = json.loads(line[len(_MAGIC) :])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}:1: the header is not JSON ({error})") from error
    name = header.get("name") if isinstance(header, dict) else None
    names = header.get("class_names") if isinstance(header, dict) else None
    usable = isinstance(names, list) and all(isinstance(entry, str) and entry for entry in names)
    if not isinstance(name, str) or not usable or not names or len(set(names)) != len(names):
        raise DataError(
            f'{source}:1: the header needs a "name" and different, non-empty "class_names"'
        )
    odd = [problem for problem in map(explain_class_name, names) if problem]
    if odd:
        raise DataError(f"{source}:1: {len(odd)} class names cannot be used", odd)
    return name, tuple(names)


def _parse_row(row: list[str], labels: dict[str, int]) -> CellImage | list[str]:
    if len(row) != len(_COLUMNS):
        return [f"{len(row)} columns, expected {len(_COLUMNS)}"]
    file, class_name, split, group, sha256 = map(read_cell, row)
    problem = path_problem(file)
    problems = [problem] if problem else []
    if class_name not in labels:
        problems.append(f'{file}: class "{class_name}" is none of {", ".join(labels)}')
    if not _SHA256.fullmatch(sha256):
        problems.append(f'{file}: "{sha256}" is no SHA-256')
    if problems:
        return problems
    return CellImage(file, labels[class_name], split, group, sha256)


def _repeated(files: Iterable[str]) -> list[str]:
    counts = Counter(files)
    return [f"{file} is listed {count} times" for file, count in counts.items() if count > 1]
