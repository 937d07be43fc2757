"""Puts C-NMC 2019 in place: the training folds and, if it is there, the preliminary test set.

Training images lie in folders all/ and hem/ and are named UID_<patient>_<image>_<cell>_<class>.bmp.
The preliminary test set is a folder of numbered images with a table (columns Patient_ID, new_names,
labels) that gives the original name and the label, 1 for all and 0 for hem. All are split 7:1:2
with patients kept together. Writes images/, manifest.csv and report.txt.

Example: python datasets/prepare_cnmc.py --source C-NMC_Leukemia.zip
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import get_cell_card
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cells.listing import CellFile, CellListing, compile_group_pattern
from wbcnets.data.prepare.cells import add_options, prepare_cells, read_options
from wbcnets.data.prepare.sources import build_parser, open_source, run_command
from wbcnets.errors import DataError
from wbcnets.io.image_files import find_files, find_image_files

CARD = get_cell_card("cnmc")
_COLUMNS = {"Patient_ID", "new_names", "labels"}


def list_cnmc(folder: Path) -> CellListing:
    """Lists the images of the training folds and of the preliminary test set.

    Raises:
        DataError: Names do not state the patient, or a table is wrong; all problems are listed.
    """
    listing = CellListing(folder, class_texts=list(CARD.class_names))
    problems: list[str] = []
    images = find_image_files(folder)
    for path in images:
        if path.parent.name in CARD.class_names:
            problems += _add(listing, path, path.name, path.parent.name)
    for table in find_files(folder, {".csv"}):
        problems += _add_table(listing, table, images)
    taken = {file.path for file in listing.files}
    listing.ignored += [
        f"{path.relative_to(folder)}: neither in all/ or hem/ nor in a table"
        for path in images
        if path not in taken
    ]
    if problems or not listing.files:
        raise DataError(f"{folder}: is not C-NMC 2019, {len(taken)} images fit", problems)
    return listing


def _add(listing: CellListing, path: Path, original_name: str, label: str) -> list[str]:
    pattern = compile_group_pattern(CARD.group_pattern)
    found = pattern.search(original_name) if pattern else None
    if found is None:
        return [f'{path.relative_to(listing.root)}: "{original_name}" does not name the patient']
    listing.files.append(CellFile(path, label, group=found.group("group")))
    return []


def _add_table(listing: CellListing, table: Path, images: Sequence[Path]) -> list[str]:
    with table.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        if not set(reader.fieldnames or ()) >= _COLUMNS:
            listing.ignored.append(f"{table.name}: has not the columns {sorted(_COLUMNS)}")
            return []
        rows = list(reader)
    # The images lie beside the table or in folders beside it
    by_name = {
        path.name: path
        for path in images
        if table.parent in path.parents and path.parent.name not in CARD.class_names
    }
    classes, problems = ClassTable.from_card(CARD), []
    for line, row in enumerate(rows, start=2):
        path, label = by_name.get(row["new_names"]), classes.find(row["labels"] or "")
        if path is None or label is None:
            problems.append(
                f'{table.name}: line {line}: no image "{row["new_names"]}", or label '
                f'"{row["labels"]}" is not 0 or 1'
            )
        else:
            problems += _add(listing, path, row["Patient_ID"] or "", CARD.class_names[label])
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = build_parser(__doc__, CARD)
    add_options(parser)
    args = parser.parse_args(arguments)
    output = args.output or Path("datasets") / CARD.name

    def prepare() -> None:
        with open_source(args.source) as folder:
            prepare_cells(list_cnmc(folder), output, read_options(args), CARD)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
