"""TXL-PBC as published: images, YOLO labels, and metadata.csv with source and leukocyte type."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.cards.detection import BLOOD_CELLS, FIVE_TYPES
from wbcnets.data.detection.report import ConversionReport
from wbcnets.data.detection.yolo import yolo_to_coco
from wbcnets.data.prepare.sources import ConvertedSplit, copy_images, find_layout
from wbcnets.errors import DataError
from wbcnets.io.image_files import find_image_files

# The order of the class numbers in the published label files
LABEL_NAMES = ("WBC", "RBC", "Platelets")
Metadata = Mapping[str, Mapping[str, str]]


def read_txl_pbc(card: DetectionCard, folder: Path, images: Path) -> list[ConvertedSplit]:
    """Copies the images that belong to the card and converts their labels.

    Raises:
        DataError: if images, labels or rows of metadata.csv are missing or cannot be used.
    """
    layout = find_layout(folder, "metadata.csv")
    metadata = _read_metadata(layout / "metadata.csv")
    splits = []
    for name in card.splits:
        files = find_image_files(layout / "images" / name, recursive=False)
        wanted = [path for path in files if _is_wanted(metadata, path, card)]
        coco, report = yolo_to_coco(
            copy_images(wanted, images / name),
            layout / "labels" / name,
            BLOOD_CELLS,
            image_root=images,
            label_names=LABEL_NAMES,
            other_images=files,
        )
        if card.class_names == FIVE_TYPES:
            coco, report = _name_subtypes(coco, report, metadata)
        if len(wanted) < len(files):
            report.notes.append(f"{len(files) - len(wanted)} images left out, as requested")
        splits.append(ConvertedSplit(name, coco, report))
    return splits


def _read_metadata(path: Path) -> Metadata:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"image", "source", "wbc_subtype_if_known"}.difference(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: the columns {sorted(missing)} are missing - get version 2")
        return {row["image"]: row for row in reader}


def _is_wanted(metadata: Metadata, image: Path, card: DetectionCard) -> bool:
    if image.name not in metadata:
        raise DataError(f"{image}: metadata.csv has no row for it - get the whole dataset")
    row = metadata[image.name]
    if card.name == "txl_pbc_without_bccd":
        return row["source"] != "BCCD"
    return card.class_names != FIVE_TYPES or row["wbc_subtype_if_known"] != ""


def _name_subtypes(
    coco: dict[str, Any], report: ConversionReport, metadata: Metadata
) -> tuple[dict[str, Any], ConversionReport]:
    """Gives every leukocyte the type of its image and leaves out all other cells."""
    names = {image["id"]: Path(image["file_name"]).name for image in coco["images"]}
    white = BLOOD_CELLS.index("WBC") + 1
    dropped = [f"dropped before the selection: {line}" for line in report.dropped]
    selected = ConversionReport(notes=[*report.notes, *dropped])
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
    selected.notes.append(f"{left_out} red cells and platelets left out, as requested")
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(FIVE_TYPES)]
    return {**coco, "annotations": annotations, "categories": categories}, selected
