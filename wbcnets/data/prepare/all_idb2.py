"""ALL-IDB2 as published: one folder of ImXXX_0.tif (healthy) and ImXXX_1.tif (lymphoblast)."""

import re
from pathlib import Path

from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.errors import DataError
from wbcnets.io.archives import unpack
from wbcnets.io.image_files import find_files, is_image_name

_NAME = re.compile(r"im\d+_(?P<label>[01])", re.IGNORECASE)


def list_all_idb2(source: Path, card: ClassificationCard, scratch: Path) -> CellListing:
    """Lists the images with the class that their names state.

    Raises:
        DataError: if names have another form, or there is no image; all are listed.
    """
    folder = unpack(source, scratch)
    listing = CellListing(folder, class_texts=list(card.class_names))
    problems = []
    for path in find_files(folder):
        if not is_image_name(path.name):
            listing.ignored.append(f"{path.relative_to(folder)}: no image by its suffix")
        elif found := _NAME.fullmatch(path.stem):
            listing.files.append(CellFile(path, card.class_names[int(found.group("label"))]))
        else:
            problems.append(f"{path.relative_to(folder)}: expected ImXXX_0 or ImXXX_1")
    if problems or not listing.files:
        raise DataError(f"{source}: is not ALL-IDB2, {len(listing.files)} images fit", problems)
    return listing
