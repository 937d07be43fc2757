"""Puts ALL-IDB2 in place: one folder of ImXXX_0.tif (healthy) and ImXXX_1.tif (lymphoblast).

The label is the last number of a file's name. The images are split 8:2, with near duplicates kept
together. Writes images/, manifest.csv and report.txt.

Example: python datasets/prepare_all_idb2.py --source ALL_IDB2.zip
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import get_cell_card
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.prepare.cells import add_options, prepare_cells, read_options
from wbcnets.data.prepare.sources import build_parser, open_source, run_command
from wbcnets.errors import DataError
from wbcnets.io.image_files import find_files, is_image_name

CARD = get_cell_card("all_idb2")
_NAME = re.compile(r"im\d+_(?P<label>[01])", re.IGNORECASE)


def list_by_name(folder: Path) -> CellListing:
    """Lists the images below a folder, with the class that their names state.

    Raises:
        DataError: Names are of another form, or there is no image; all are listed.
    """
    listing = CellListing(folder, class_texts=list(CARD.class_names))
    problems = []
    for path in find_files(folder):
        if not is_image_name(path.name):
            listing.ignored.append(f"{path.relative_to(folder)}: no image by its suffix")
            continue
        found = _NAME.fullmatch(path.stem)
        if found is None:
            problems.append(f"{path.relative_to(folder)}: expected ImXXX_0 or ImXXX_1")
        else:
            listing.files.append(CellFile(path, CARD.class_names[int(found.group("label"))]))
    if problems or not listing.files:
        raise DataError(f"{folder}: is not ALL-IDB2, {len(listing.files)} images fit", problems)
    return listing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = build_parser(__doc__, CARD)
    add_options(parser)
    args = parser.parse_args(arguments)
    output = args.output or Path("datasets") / CARD.name

    def prepare() -> None:
        with open_source(args.source) as folder:
            prepare_cells(list_by_name(folder), output, read_options(args), CARD)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
