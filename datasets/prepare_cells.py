"""Puts cell images of any kind in place: class folders, split and class folders, CSV, or a zip.

A CSV file has the columns file and label, and if wanted split and group; its paths start from its
folder. With --card the classes are those of a known set (see datasets/README.md), whose folders may
have other names; without, they are the source's own, in natural order. Images that cannot be read,
that are tiny, or that stand twice in a class are left out and named. Writes images/, manifest.csv
and report.txt.

Example: python datasets/prepare_cells.py --source my_cells.zip --output datasets/my_cells
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import CELL_CARDS
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.prepare.cells import add_options, prepare_cells, read_options
from wbcnets.data.prepare.sources import open_source, run_command
from wbcnets.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", required=True, type=Path, metavar="FOLDER_CSV_OR_ZIP", help="the images"
    )
    parser.add_argument("--output", type=Path, help="folder to write, such as datasets/my_cells")
    parser.add_argument("--card", choices=tuple(CELL_CARDS), help="the set that it is")
    parser.add_argument("--name", default="", help="name of the set (default: the folder's)")
    parser.add_argument(
        "--group-pattern",
        default="",
        metavar="REGEX",
        help="finds the patient or slide in a file's name, such as '^(?P<group>P[0-9]+)_'",
    )
    parser.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="go on when images differ in number from the card",
    )
    add_options(parser)
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Does the work of a parsed command line."""
    card = CELL_CARDS.get(args.card or "")
    if args.output is None and card is None:
        raise ConfigError("--output is needed where no --card is given, such as datasets/my_cells")
    output = args.output or Path("datasets") / (args.name or args.card)
    pattern = args.group_pattern or (card.group_pattern if card else "")
    if args.source.suffix.lower() == ".csv":
        prepare_cells(list_cells(args.source, pattern), output, read_options(args), card, args.name)
        return
    with open_source(args.source) as folder:
        tables = sorted(folder.glob("*.csv")) if not args.source.is_dir() else []
        source = tables[0] if len(tables) == 1 else folder
        prepare_cells(list_cells(source, pattern), output, read_options(args), card, args.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser().parse_args(arguments)
    return run_command(lambda: prepare(args))


if __name__ == "__main__":
    sys.exit(main())
