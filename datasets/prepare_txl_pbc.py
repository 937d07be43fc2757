"""Turns TXL-PBC as published (images/, labels/, metadata.csv) into COCO files.

Writes annotations/{train,val}.json and images/{train,val}/. Two options give other sets, each
in a folder of its own, so that their names say what they hold:

  --without-bccd      datasets/txl_pbc_without_bccd: leaves out the images that come from BCCD; use
                      it for whatever is tested on BCCD
  --classes subtype   datasets/txl_pbc_subtype: the images whose leukocyte type metadata.csv states,
                      with the five types as classes

Example: python datasets/prepare_txl_pbc.py --source txl_pbc_trainval.zip --without-bccd
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbcnets.data.cards.detection import BLOOD_CELLS, FIVE_TYPES, DatasetCard, get_card
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.detection.report import ConversionReport
from wbcnets.data.detection.yolo import yolo_to_coco
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
from wbcnets.io.image_files import find_image_files

# The order of the class numbers in the published label files.
LABEL_NAMES = ("WBC", "RBC", "Platelets")


def prepare(
    source: Path, output: Path, card: DatasetCard, allow_other_counts: bool = False
) -> dict[str, CocoDataset]:
    """Converts the set that `card` describes; returns its splits."""
    splits = []
    with open_source(source) as folder:
        layout = find_layout(folder, "metadata.csv")
        metadata = read_metadata(layout / "metadata.csv")
        for name in card.splits:
            images = find_image_files(layout / "images" / name, recursive=False)
            wanted = [path for path in images if is_wanted(metadata, path, card)]
            coco, report = yolo_to_coco(
                copy_images(wanted, output / "images" / name),
                layout / "labels" / name,
                BLOOD_CELLS,
                image_root=output / "images",
                label_names=LABEL_NAMES,
                other_images=images,
            )
            if card.classes == FIVE_TYPES:
                coco, report = name_subtypes(coco, report, metadata)
            if len(wanted) < len(images):
                report.notes.append(f"{len(images) - len(wanted)} images left out as asked for")
            splits.append(Split(name, coco, report))
    return write_splits(card, output, splits, allow_other_counts)


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Reads metadata.csv: image name -> its row.

    Raises:
        DataError: A column is missing.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"image", "source", "wbc_subtype_if_known"}.difference(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: the columns {sorted(missing)} are missing - get version 2")
        return {row["image"]: row for row in reader}


def is_wanted(metadata: Mapping[str, Mapping[str, str]], image: Path, card: DatasetCard) -> bool:
    """Whether an image belongs to the set of the card.

    Raises:
        DataError: metadata.csv does not list the image.
    """
    if image.name not in metadata:
        raise DataError(f"{image}: metadata.csv has no row for it - get the whole set")
    row = metadata[image.name]
    if card.name == "txl_pbc_without_bccd":
        return row["source"] != "BCCD"
    return card.classes != FIVE_TYPES or row["wbc_subtype_if_known"] != ""


def name_subtypes(
    coco: dict[str, Any], report: ConversionReport, metadata: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Any], ConversionReport]:
    """Gives every leukocyte the type of its image and leaves the other cells out."""
    names = {image["id"]: Path(image["file_name"]).name for image in coco["images"]}
    white = BLOOD_CELLS.index("WBC") + 1
    selected = ConversionReport(
        notes=[
            *report.notes,
            *(f"before the selection, dropped: {line}" for line in report.dropped),
        ]
    )
    annotations: list[dict[str, Any]] = []
    for annotation in coco["annotations"]:
        if annotation["category_id"] != white:
            continue
        image = names[annotation["image_id"]]
        subtype = metadata[image]["wbc_subtype_if_known"]
        if subtype not in FIVE_TYPES:
            raise DataError(
                f'metadata.csv: {image}: type "{subtype}" is none of {list(FIVE_TYPES)}'
            )
        selected.read[subtype] += 1
        selected.kept[subtype] += 1
        selected.n_used += 1
        category = FIVE_TYPES.index(subtype) + 1
        annotations.append({**annotation, "id": len(annotations) + 1, "category_id": category})
    left_out = len(coco["annotations"]) - len(annotations)
    selected.notes.append(f"{left_out} red cells and platelets left out as asked for")
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(FIVE_TYPES)]
    return {**coco, "annotations": annotations, "categories": categories}, selected


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = build_parser(__doc__, get_card("txl_pbc"))
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--without-bccd", action="store_true", help="leave out the 142 images that come from BCCD"
    )
    choice.add_argument(
        "--classes",
        choices=("cells", "subtype"),
        default="cells",
        help="cells: RBC, WBC, Platelets (default); subtype: the five leukocyte types",
    )
    args = parser.parse_args(arguments)
    variant = "_without_bccd" if args.without_bccd else "_subtype" * (args.classes == "subtype")
    card = get_card(f"txl_pbc{variant}")
    output = args.output or Path("datasets") / card.name
    return run_command(lambda: prepare(args.source, output, card, args.allow_other_counts))


if __name__ == "__main__":
    sys.exit(main())
