"""Turns BCCD as published (Annotations, ImageSets, JPEGImages) into COCO files.

Writes annotations/{trainval,test,train,val}.json and images/, checks the counts, and names the two
boxes without area that it drops.

Example: python datasets/prepare_bccd.py --source BCCD_Dataset-master.zip
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.detection import get_card
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.detection.voc import voc_to_coco
from wbcnets.data.prepare.sources import (
    Split,
    build_parser,
    copy_images,
    find_layout,
    open_source,
    run_command,
    write_splits,
)
from wbcnets.errors import DataError

CARD = get_card("bccd")


def prepare(source: Path, output: Path, allow_other_counts: bool = False) -> dict[str, CocoDataset]:
    """Converts the set; returns its splits."""
    with open_source(source) as folder:
        layout = find_layout(folder, "ImageSets/Main/trainval.txt")
        stems = {split: _read_list(layout, split) for split in CARD.splits}
        wanted = sorted(set().union(*stems.values()))
        copy_images((layout / "JPEGImages" / f"{stem}.jpg" for stem in wanted), output / "images")
        splits = []
        for name, names in stems.items():
            files = [layout / "Annotations" / f"{stem}.xml" for stem in names]
            coco, report = voc_to_coco(files, output / "images", CARD.classes, origin=1)
            splits.append(Split(name, coco, report))
    return write_splits(CARD, output, splits, allow_other_counts)


def _read_list(layout: Path, split: str) -> list[str]:
    path = layout / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path}: the list of the split {split} is missing - get the whole set")
    return path.read_text(encoding="utf-8").split()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser(__doc__, CARD).parse_args(arguments)
    output = args.output or Path("datasets") / CARD.name
    return run_command(lambda: prepare(args.source, output, args.allow_other_counts))


if __name__ == "__main__":
    sys.exit(main())
