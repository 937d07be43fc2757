"""TXL-PBC as published: images, YOLO labels, and metadata.csv with source and leukocyte type."""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.cards.detection import BLOOD_CELLS, FIVE_TYPES
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.yolo import load_yolo
from wbcnets.data.prepare.sources import copy_images, find_layout
from wbcnets.errors import DataError
from wbcnets.io.image_files import find_image_files
from wbcnets.io.tables import read_text

# The order of the class numbers in the published label files
LABEL_NAMES = ("WBC", "RBC", "Platelets")
Metadata = Mapping[str, Mapping[str, str]]


def read_txl_pbc(card: DetectionCard, folder: Path, images: Path) -> dict[str, CocoDataset]:
    """Copies the images that belong to the card and reads their labels.

    Raises:
        DataError: if images, labels or rows of metadata.csv are missing or cannot be used.
    """
    layout = find_layout(folder, "metadata.csv")
    metadata = read_metadata(layout / "metadata.csv")
    splits = {}
    for name in card.splits:
        # In plain order, so that image ids stay those of earlier releases
        files = sorted(find_image_files(layout / "images" / name, recursive=False))
        wanted = [path for path in files if _is_wanted(metadata, path, card)]
        dataset = load_yolo(
            copy_images(wanted, images / name),
            layout / "labels" / name,
            BLOOD_CELLS,
            image_root=images,
            label_names=LABEL_NAMES,
            other_images=files,
        )
        if card.class_names == FIVE_TYPES:
            dataset = _name_subtypes(dataset, metadata)
        if len(wanted) < len(files):
            left_out = len(files) - len(wanted)
            dataset.report.notes.append(f"{left_out} images left out, as requested")
        splits[name] = dataset
    return splits


def read_metadata(path: Path) -> Metadata:
    """Returns the rows of metadata.csv by image name, in their order.

    Raises:
        DataError: if it cannot be read, or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "the table"), newline=""))
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


def _name_subtypes(dataset: CocoDataset, metadata: Metadata) -> CocoDataset:
    """Gives every leukocyte the type of its image and leaves out all other cells."""
    white = dataset.class_names.index("WBC")
    dropped = [f"dropped before the selection: {line}" for line in dataset.report.dropped]
    report = replace(dataset.report, n_used=0, repaired=[], dropped=[], read=Counter())
    images = []
    for image in dataset.images:
        subtype = metadata[Path(image.file_name).name]["wbc_subtype_if_known"]
        if subtype not in FIVE_TYPES:
            name = Path(image.file_name).name
            raise DataError(f'metadata.csv: {name}: type "{subtype}" is none of {list(FIVE_TYPES)}')
        chosen = image.select(image.labels == white)
        chosen.labels[:] = FIVE_TYPES.index(subtype)
        images.append(chosen)
        report.read[subtype] += len(chosen.labels)
    report.kept, report.n_used = report.read, report.read.total()
    left_out = sum(len(image.labels) for image in dataset.images) - report.n_used
    red = f"{left_out} red cells and platelets left out, as requested"
    report.notes = [*report.notes, *dropped, red]
    category_ids = tuple(range(1, len(FIVE_TYPES) + 1))
    return replace(
        dataset, class_names=FIVE_TYPES, category_ids=category_ids, images=images, report=report
    )
