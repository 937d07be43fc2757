"""Finds all problems of datasets in one pass, before anything is trained on them.

  wbcnets check train.json --images images          COCO
  wbcnets check BCCD                                Pascal VOC, LabelMe and YOLO folders
  wbcnets check my_cells                            class folders, tables, zips, prepared sets
  wbcnets check train.json val.json --images images what two sets share, too
  wbcnets check train.json --fix-to repaired        a copy without the problems

Files are only read. What an image's content was found to be is kept in ~/.cache/wbcnets, so that
the second check of a set takes no time. The exit code is 0 when all can be used, 1 when there are
problems, 2 when something cannot be read at all.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wbcnets.data.cards.paths import dataset_paths, dataset_root
from wbcnets.data.check.checking import CheckOptions, check_datasets, with_repair
from wbcnets.data.check.formats import FORMATS
from wbcnets.data.check.repair import dump, write_repaired
from wbcnets.data.check.results import UNREADABLE, CheckResult
from wbcnets.data.detection.box_checks import BAD_BOX_CHOICES
from wbcnets.errors import DataError
from wbcnets.io.archives import unpacked
from wbcnets.io.atomic_files import write_atomically

_ORIGINS = {"auto": "auto", "0": 0, "1": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `wbcnets check` takes."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH",
        help="annotation files, folders, zips of class folders, or names of prepared sets",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the images lie")
    parser.add_argument("--format", choices=FORMATS, default="", help="found out by default")
    parser.add_argument(
        "--classes", default="", metavar="A,B,C", help="the classes; other names are problems"
    )
    parser.add_argument("--strict", action="store_true", help="repairs, drops and notes count too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all findings")
    parser.add_argument(
        "--fix-to", type=Path, metavar="FOLDER",
        help="writes a copy of what can be used, and a list of what was repaired and left out",
    )  # fmt: skip
    parser.add_argument(
        "--bad-box", choices=BAD_BOX_CHOICES, default="drop",
        help="drop boxes without area (default), also fix swapped and overhanging ones, or refuse",
    )  # fmt: skip
    parser.add_argument(
        "--voc-origin", choices=tuple(_ORIGINS), default="auto",
        help="the coordinate of the first pixel in Pascal VOC's files (default: by the data)",
    )  # fmt: skip
    parser.add_argument(
        "--group-by", default="", metavar="REGEX",
        help="finds the patient or slide in a file's name, for example '(?P<group>P[0-9]+)_'",
    )  # fmt: skip
    parser.add_argument(
        "--no-leaks", action="store_true", help="does not look for what two sets or splits share"
    )


def run(args: argparse.Namespace) -> int:
    """Checks, prints, writes what was asked for, and returns the exit code.

    Raises:
        WbcnetsError: An option is wrong, or a file cannot be written.
    """
    options = CheckOptions(
        images=args.images,
        format=args.format,
        class_names=tuple(name.strip() for name in args.classes.split(",") if name.strip()),
        bad_box=args.bad_box,
        voc_origin=_ORIGINS[args.voc_origin],  # type: ignore[arg-type]
        strict=args.strict,
        leaks=not args.no_leaks,
        group_pattern=args.group_by,
    )
    with contextlib.ExitStack() as stack:
        named = [_resolve(path, options) for path in args.paths]
        try:
            paths = [stack.enter_context(_opened(path)) for path, _ in named]
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            return UNREADABLE
        options = replace(options, images=options.images or named[0][1])
        result = check_datasets(paths, options)
        for given, path in zip(args.paths, paths):
            for entry in result.sets:  # an unpacked zip goes by its own name
                entry.name = entry.name.replace(str(path), str(given))
        _print(result)
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(args.json, lambda file: file.write(dump(result).encode()))
        if args.fix_to is not None:
            _write_copy(paths, options, args.fix_to)
    return result.exit_code


def _resolve(path: Path, options: CheckOptions) -> tuple[Path, Path | None]:
    """The path that was meant, and the folder of images: a prepared set goes by its name too."""
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path, None
    prepared = dataset_root(None) / path.name
    if prepared.is_dir():
        return prepared, None
    try:
        annotations, images = dataset_paths(path.name, None)
    except DataError:
        return path, None
    return Path(annotations), Path(images)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """A zip file is unpacked for the while."""
    if path.suffix.lower() != ".zip":
        yield path
        return
    with unpacked(path) as folder:
        yield folder


def _print(result: CheckResult) -> None:
    text = result.summary()
    # A terminal need not be able to show every file name
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, errors="backslashreplace").decode(encoding))


def _write_copy(paths: Sequence[Path], options: CheckOptions, folder: Path) -> None:
    repaired = check_datasets(paths, with_repair(options))
    for path in write_repaired(repaired, folder):
        print(f"{path}: written")
    print(f"{folder / 'repairs.txt'}: what was repaired and left out")
