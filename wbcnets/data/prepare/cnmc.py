"""C-NMC 2019 as published: the training folds and, if it is there, the preliminary test set.

Training images lie in folders all/ and hem/ and are named UID_<patient>_<image>_<cell>_<class>.bmp.
The preliminary test set is a folder of numbered images with a table (columns Patient_ID, new_names,
labels) of their original names and labels, 1 for all and 0 for hem.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.errors import DataError
from wbcnets.io.archives import unpack
from wbcnets.io.image_files import find_files, find_image_files
from wbcnets.io.tables import read_text

_COLUMNS = {"Patient_ID", "new_names", "labels"}


def list_cnmc(source: Path, card: ClassificationCard, scratch: Path) -> CellListing:
    """Lists the images of the training folds and of the preliminary test set.

    Raises:
        DataError: if names do not state the patient, or a table is wrong; all problems are listed.
    """
    folder = unpack(source, scratch)
    listing = CellListing(folder, class_texts=list(card.class_names))
    problems: list[str] = []
    images = find_image_files(folder)
    others = [path for path in images if path.parent.name not in card.class_names]
    named = [(p, p.name, p.parent.name) for p in images if p.parent.name in card.class_names]
    for table in find_files(folder, {".csv"}):
        named += _read_table(table, others, card, listing.ignored, problems)
    for path, original_name, label in named:
        if found := re.search(card.group_pattern, original_name):
            listing.files.append(CellFile(path, label, group=found.group("group")))
        else:
            problems.append(
                f'{path.relative_to(folder)}: "{original_name}" does not name the patient'
            )
    unused = sorted({*others} - {path for path, _, _ in named})
    listing.ignored += [
        f"{path.relative_to(folder)}: neither in all/ or hem/ nor in a table" for path in unused
    ]
    if problems or not listing.files:
        raise DataError(f"{source}: is not C-NMC 2019, {len(listing.files)} images fit", problems)
    return listing


def _read_table(
    table: Path,
    images: list[Path],
    card: ClassificationCard,
    ignored: list[str],
    problems: list[str],
) -> Iterator[tuple[Path, str, str]]:
    """Yields file, original name and class of each row."""
    # The images lie beside the table or in folders beside it
    by_name = {path.name: path for path in images if table.parent in path.parents}
    classes = ClassTable.from_classes(card.classes)
    reader = csv.DictReader(io.StringIO(read_text(table, "the table"), newline=""))
    if not set(reader.fieldnames or ()) >= _COLUMNS:
        ignored.append(f"{table.name}: lacks the columns {', '.join(sorted(_COLUMNS))}")
        return
    for line, row in enumerate(reader, start=2):
        path, label = by_name.get(row["new_names"]), classes.find(row["labels"] or "")
        if path is None or label is None:
            problems.append(
                f'{table.name}: line {line}: no image "{row["new_names"]}", or label '
                f'"{row["labels"]}" is not 0 or 1'
            )
        else:
            yield path, row["Patient_ID"] or "", card.class_names[label]
