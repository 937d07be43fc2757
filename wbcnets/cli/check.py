"""Finds all problems of datasets in one pass, before anything is trained on them.

  wbcnets check train.json --images images          COCO
  wbcnets check BCCD                                Pascal VOC, LabelMe and YOLO folders
  wbcnets check my_cells                            class folders, tables, zips, prepared sets
  wbcnets check train.json val.json --images images also what two sets share
  wbcnets check train.json --fix-to repaired        a copy without the problems

Files are only read. Facts about their contents are cached in ~/.cache/wbcnets, so that the second
check of a set only reads and hashes its files. The exit code is 0 when all can be used, 1 when
there are problems, 2 when something cannot be read at all.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from wbcnets.data.check.checking import (
    CheckOptions,
    check_datasets,
    check_fix_folder,
    fix_datasets,
)
from wbcnets.data.check.formats import FORMATS
from wbcnets.data.check.results import PROBLEMS, WRITTEN_BY
from wbcnets.io.atomic_files import write_text
from wbcnets.io.outputs import claim_file

_ORIGINS = {"auto": "auto", "0": 0, "1": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets check``."""
    add = parser.add_argument
    add(
        "paths", nargs="+", type=Path, metavar="PATH",
        help="annotation files, folders, zips of class folders, or names of prepared sets",
    )  # fmt: skip
    add("--images", type=Path, metavar="FOLDER", help="folder of the images")
    add("--format", choices=FORMATS, default="", help="format of the sets; detected by default")
    add(
        "--classes", dest="class_names", type=_names, default=(), metavar="A,B,C",
        help="the classes; other names are problems",
    )  # fmt: skip
    add("--strict", action="store_true", help="count repairs, drops and notes as problems")
    add("--json", type=Path, metavar="FILE", help="write all findings to a file")
    add(
        "--fix-to", type=Path, metavar="FOLDER",
        help="write a copy of what can be used, and a list of what was repaired and left out",
    )  # fmt: skip
    add(
        "--bad-box", dest="policy", choices=("drop", "fix", "refuse"), default="drop",
        help="drop boxes without area, also fix swapped and overhanging ones, or refuse all",
    )  # fmt: skip
    add(
        "--voc-origin", choices=tuple(_ORIGINS), default="auto",
        help="coordinate of the first pixel in Pascal VOC files; auto decides by the data",
    )  # fmt: skip
    add(
        "--group-by", dest="group_pattern", default="", metavar="REGEX",
        help="finds the patient or slide in the name of a file, such as '(?P<group>P[0-9]+)_'",
    )  # fmt: skip
    add(
        "--no-leaks", dest="leaks", action="store_false",
        help="do not search for images that two sets or splits share",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Checks, prints, writes the requested files, and returns the exit code.

    Raises:
        WbcnetsError: if an option is wrong, or a file cannot be written.
    """
    options = CheckOptions(
        images=args.images,
        format=args.format,
        class_names=args.class_names,
        policy=args.policy,
        voc_origin=_ORIGINS[args.voc_origin],  # type: ignore[arg-type]
        strict=args.strict,
        leaks=args.leaks,
        group_pattern=args.group_pattern,
    )
    with ExitStack() as locks:
        if args.json is not None:
            locks.enter_context(claim_file(args.json, args.paths, WRITTEN_BY, "json"))
        return _check(args, options)


def _check(args: argparse.Namespace, options: CheckOptions) -> int:
    if args.fix_to is not None:
        check_fix_folder(args.fix_to, args.paths, options)
    result = check_datasets(args.paths, options)
    text = result.summary()
    if result.exit_code == PROBLEMS and args.fix_to is None:
        text += "; --fix-to FOLDER writes a copy without them"
    print(text)
    if args.json is not None:
        write_text(args.json, result.to_json())
    if args.fix_to is not None:
        for path in fix_datasets(args.paths, options, args.fix_to):
            print(f"{path}: written")
        print(f"{args.fix_to / 'repairs.txt'}: all that was repaired and left out")
    return result.exit_code


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
