"""COCO-format leukocyte datasets in Detectron2's catalogs, checked before anything is trained."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from wbcnets.data.cards.paths import dataset_paths
from wbcnets.data.detection.coco import CocoDataset, load_coco
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.strict_json import write_json

logger = logging.getLogger("mfds_detr.data.datasets")


class DatasetSource(NamedTuple):
    """A dataset's name and where it lies."""

    name: str
    json_file: Path
    image_folder: Path


def parse_dataset_argument(text: str) -> DatasetSource:
    """`NAME=annotations.json:image_folder` from the command line.

    Raises:
        ConfigError: The text has another form.
    """
    name, equals, paths = text.partition("=")
    json_file, colon, image_folder = paths.rpartition(":")
    if not (equals and colon and name and json_file and image_folder):
        raise ConfigError(f"--dataset {text!r}: expected NAME=annotations.json:image_folder")
    return DatasetSource(name, Path(json_file), Path(image_folder))


def find_source(name: str, given: Sequence[DatasetSource]) -> DatasetSource:
    """Where a dataset lies: on the command line, in Detectron2's catalog, or in the datasets' root.

    Detectron2's own COCO sets are found under `DETECTRON2_DATASETS`; the datasets' root is the
    environment variable `WBCNETS_DATASETS`, or `datasets`.

    Raises:
        DataError: No such dataset is given or known, or it is not prepared; the message says how.
    """
    for source in given:
        if source.name == name:
            return source
    if name in DatasetCatalog.list():
        metadata = MetadataCatalog.get(name)
        if metadata.get("json_file") and metadata.get("image_root"):
            return DatasetSource(name, Path(metadata.json_file), Path(metadata.image_root))
    json_file, image_folder = dataset_paths(name, os.environ.get("WBCNETS_DATASETS", "datasets"))
    return DatasetSource(name, Path(json_file), Path(image_folder))


def register_datasets(
    train: Sequence[str],
    test: Sequence[str],
    given: Sequence[DatasetSource],
    cache: Path,
    class_names: Sequence[str] = (),
) -> dict[str, CocoDataset]:
    """Checks every dataset and registers it, with one class order for all of them.

    The order is that of `class_names`, else of the first training set's JSON. Evaluation reads the
    checked annotations, the same that training sees.

    Args:
        train: Names of the training sets.
        test: Names of the test sets.
        given: Datasets from the command line.
        cache: Folder for the checked annotations.
        class_names: The classes in the model's order, when a checkpoint fixes them.

    Returns:
        The datasets by name.

    Raises:
        DataError: A dataset is unusable, or its classes are not those of the others.
    """
    datasets: dict[str, CocoDataset] = {}
    names = tuple(class_names)
    for name in dict.fromkeys([*train, *test]):
        source = find_source(name, given)
        dataset = load_coco(source.json_file, source.image_folder)
        logger.info(dataset.summary())
        names = names or tuple(dataset.class_names)
        register_dataset(name, dataset, source, cache, names)
        datasets[name] = dataset
    return datasets


def save_data_report(folder: Path, datasets: Mapping[str, CocoDataset]) -> None:
    """Writes `data_report.json`: what became of every box and image, exceptions by name."""
    report = {
        name: {
            "source": dataset.source,
            "boxes": vars(dataset.counts),
            "images": vars(dataset.image_counts),
            "boxes_per_class": dataset.box_counts,
            "repaired": dataset.repaired,
            "dropped": dataset.dropped,
            "notes": dataset.notes,
        }
        for name, dataset in datasets.items()
    }
    write_json(report, folder / "data_report.json")


def register_dataset(
    name: str,
    dataset: CocoDataset,
    source: DatasetSource,
    cache: Path,
    class_names: Sequence[str],
) -> None:
    """Puts a checked dataset into Detectron2's catalogs under a class order.

    Raises:
        DataError: The dataset's classes are not `class_names`.
    """
    if set(dataset.class_names) != set(class_names):
        raise DataError(
            f"{source.json_file}: has the classes {list(dataset.class_names)}, but the model or "
            f"the training set has {list(class_names)}; the names must be the same, in any order"
        )
    json_file = cache / f"{name}.json"
    cache.mkdir(parents=True, exist_ok=True)
    dataset.save(json_file)
    label_of = [class_names.index(own) for own in dataset.class_names]
    category_id = dict(zip(dataset.class_names, dataset.category_ids))
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, lambda: to_detectron2(dataset, label_of))
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(source.image_folder),
        evaluator_type="coco",
        thing_classes=list(class_names),
        thing_dataset_id_to_contiguous_id={
            category_id[class_name]: label for label, class_name in enumerate(class_names)
        },
    )


def to_detectron2(dataset: CocoDataset, label_of: Sequence[int]) -> list[dict[str, Any]]:
    """A dataset in Detectron2's standard form.

    Args:
        dataset: The checked dataset.
        label_of: The model's label of each of the dataset's labels.
    """
    return [
        {
            "file_name": str(image.file_name),
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": [
                {
                    "bbox": [float(value) for value in box],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": label_of[label],
                    "iscrowd": int(crowd),
                }
                for box, label, crowd in zip(image.boxes, image.labels, image.crowd)
            ],
        }
        for image in dataset.images
    ]


def count_labels(names: Sequence[str], num_classes: int) -> list[int]:
    """Objects of each class in registered datasets, crowds left out."""
    labels = [
        annotation["category_id"]
        for name in names
        for record in DatasetCatalog.get(name)
        for annotation in record["annotations"]
        if not annotation["iscrowd"]
    ]
    return np.bincount(np.array(labels, dtype=np.int64), minlength=num_classes).tolist()


def most_objects(names: Sequence[str]) -> tuple[int, str]:
    """Objects in the densest image of registered datasets, and its file."""
    sizes = [
        (len(record["annotations"]), record["file_name"])
        for name in names
        for record in DatasetCatalog.get(name)
    ]
    return max(sizes, default=(0, ""))
