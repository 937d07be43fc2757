"""What the scripts in `datasets/` share: sources, copies, counts, and the files that they write."""

import argparse
import contextlib
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wbcnets.data.cards.classes import CellCard
from wbcnets.data.cards.detection import DatasetCard
from wbcnets.data.detection.coco import CocoDataset, parse_coco
from wbcnets.data.detection.report import ConversionReport
from wbcnets.errors import DataError, WbcnetsError
from wbcnets.io.image_files import IGNORED_FOLDERS
from wbcnets.io.images import read_image

MAX_ZIP_BYTES = 8 << 30
MAX_ZIP_MEMBERS = 200_000
MAX_ZIP_RATIO = 200


@dataclass
class Split:
    """One split on its way to the disk.

    Args:
        name: Such as "train".
        coco: The converted COCO object.
        report: What became of its boxes.
    """

    name: str
    coco: dict[str, Any]
    report: ConversionReport


def build_parser(description: str | None, card: DatasetCard | CellCard) -> argparse.ArgumentParser:
    """The command line that all preparation scripts share.

    Args:
        description: The script's docstring.
        card: The dataset.
    """
    parser = argparse.ArgumentParser(
        description=f"{description}\n\n{card.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source",
        required=True,
        type=Path,
        metavar="FOLDER_OR_ZIP",
        help="the dataset as published, as a folder or as a zip file",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"folder to write (default: datasets/{card.name})",
    )
    parser.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="go on when images or boxes differ in number from the card",
    )
    return parser


def run_command(command: Callable[[], object]) -> int:
    """Runs a script's work; an expected error becomes a message and the exit code 1."""
    try:
        command()
    except (WbcnetsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def open_source(source: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the folder of a source; a zip file is unpacked to a temporary one for the while.

    Raises:
        DataError: There is no such folder or zip file, or the zip file is not safe to unpack.
    """
    path = Path(source)
    if path.is_dir():
        yield path
        return
    if not zipfile.is_zipfile(path):
        reason = "is neither a folder nor a zip file" if path.exists() else "does not exist"
        raise DataError(f"{path}: the source {reason} - see --help for where to get it")
    with tempfile.TemporaryDirectory(prefix="wbcnets-") as temporary:
        extract_zip(path, Path(temporary))
        yield Path(temporary)


def extract_zip(archive: Path, target: Path) -> None:
    """Unpacks a zip file without leaving the target folder and within bounds.

    Raises:
        DataError: A member is encrypted, a link, has an absolute path or one with `..`; there are
            too many members, they are too large, or compressed too well to be images; or the file
            is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if not member.is_dir()]
            refuse_members(archive, members)
            for member in members:
                destination = target / member.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as stream, destination.open("wb") as out:
                    shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: damaged or unsupported zip file ({error})") from error


def refuse_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses a zip file by its list of members, before anything is unpacked.

    Raises:
        DataError: See `extract_zip`; all problems are listed.
    """
    problems = []
    for member in members:
        parts = PurePosixPath(member.filename).parts
        if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
            problems.append(f'"{member.filename}" leads out of the folder')
        if stat.S_ISLNK(member.external_attr >> 16):
            problems.append(f'"{member.filename}" is a symbolic link')
        if member.flag_bits & 1:
            problems.append(f'"{member.filename}" is encrypted')
        if member.file_size > MAX_ZIP_RATIO * max(member.compress_size, 1024):
            problems.append(f'"{member.filename}" unpacks to {member.file_size:,} bytes')
    total = sum(member.file_size for member in members)
    if len(members) > MAX_ZIP_MEMBERS or total > MAX_ZIP_BYTES:
        problems.append(f"{len(members)} files of {total:,} bytes exceed the limits")
    if problems:
        raise DataError(f"{archive}: not unpacked - get the published file again", problems)


def find_layout(folder: Path, marker: str) -> Path:
    """Finds the folder that holds `marker`: the source itself, or up to three levels below it.

    Raises:
        DataError: It is in none, or in several.
    """
    pattern = ["", "*/", "*/*/", "*/*/*/"]
    found = [
        candidate
        for prefix in pattern
        for candidate in sorted(folder.glob(prefix + marker))
        if not IGNORED_FOLDERS.intersection(candidate.parts)
    ]
    if not found:
        raise DataError(
            f"{folder}: there is no {marker} in it - give the folder of the published set"
        )
    if len(found) > 1:
        raise DataError(f"{folder}: {marker} is there {len(found)} times - name the inner folder")
    for _ in PurePosixPath(marker).parts:
        found[0] = found[0].parent
    return found[0]


def copy_images(files: Iterable[Path], target: Path) -> list[Path]:
    """Copies images byte by byte and decodes each copy once.

    Args:
        files: The images.
        target: Folder for the copies, made when it is missing.

    Returns:
        The copies, in the same order.

    Raises:
        DataError: Images are missing or damaged; all are listed.
    """
    target.mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> Path | str:
        copied = target / path.name
        try:
            read_image(path)
            if not copied.exists() or not copied.samefile(path):
                shutil.copyfile(path, copied)
        except DataError as error:
            return str(error)
        return copied

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(copy, files))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise DataError(f"{len(problems)} images cannot be used", problems)
    return [result for result in results if isinstance(result, Path)]


def write_splits(
    card: DatasetCard, output: Path, splits: Sequence[Split], allow_other_counts: bool = False
) -> dict[str, CocoDataset]:
    """Checks the splits against the card, writes their JSON files and prints what was done.

    Args:
        card: What is expected.
        output: Folder of the dataset; the images are already in `output/images`.
        splits: The converted splits.
        allow_other_counts: Whether numbers other than the card's are let through.

    Returns:
        Split name -> the dataset as `load_coco` reads it.

    Raises:
        DataError: Numbers differ from the card, or a JSON would not pass `load_coco`.
    """
    _compare_with_card(card, splits, allow_other_counts)
    datasets = {}
    for split in splits:
        path = output / "annotations" / f"{split.name}.json"
        datasets[split.name] = parse_coco(split.coco, output / "images", source=str(path))
        datasets[split.name].save(path)
        print(f"{path}: {len(split.coco['images'])} images, boxes: {split.report.counts}")
        for line in split.report.dropped:
            print(f"  dropped: {line}")
        for line in split.report.repaired:
            print(f"  repaired: {line}")
        for line in split.report.notes:
            print(f"  note: {line}")
    print(counts_table(card, splits))
    return datasets


def _compare_with_card(
    card: DatasetCard, splits: Sequence[Split], allow_other_counts: bool
) -> None:
    problems = []
    for split in splits:
        expected, found = card.splits[split.name], len(split.coco["images"])
        if found != expected:
            problems.append(f"{split.name}: {found} images, expected {expected}")
    read = total_counts(split.report.read for split in splits if split.name in card.counted_splits)
    for name, expected in card.box_counts.items():
        if read[name] != expected:
            problems.append(f"{name}: {read[name]} boxes, expected {expected}")
    if problems and not allow_other_counts:
        raise DataError(
            f"{card.name}: this is not the published set - get it from: {card.source}; "
            "or go on with --allow-other-counts",
            problems,
        )
    for problem in problems:
        print(f"warning: {problem}")


def total_counts(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Adds up counts per class."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return total


def counts_table(card: DatasetCard, splits: Sequence[Split]) -> str:
    """Boxes per split and class, as `read -> kept`."""
    rows = [["split", "images", *card.classes, "all"]]
    for split in splits:
        row = [split.name, str(len(split.coco["images"]))]
        for name in card.classes:
            row.append(_before_after(split.report.read[name], split.report.kept[name]))
        row.append(_before_after(split.report.n_read, split.report.kept.total()))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(["boxes before -> after:", *lines])


def _before_after(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
