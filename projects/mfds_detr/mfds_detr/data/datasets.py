"""COCO-format datasets in Detectron2's catalogs: the known ones by name, all of them checked."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.cards.paths import DATASET_NAMES, dataset_paths
from wbcnets.data.detection.coco import CocoDataset, load_coco
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.strict_json import write_json

logger = logging.getLogger("mfds_detr.data.datasets")


class DatasetSource(NamedTuple):
    """The name and the files of a dataset."""

    name: str
    json_file: Path
    image_folder: Path


def parse_dataset(text: str) -> DatasetSource:
    """Parses ``NAME=annotations.json:image_folder``.

    Raises:
        ConfigError: if the text has another form.
    """
    name, equals, paths = text.partition("=")
    json_file, colon, image_folder = paths.rpartition(":")
    if not (equals and colon and name and json_file and image_folder):
        raise ConfigError(
            f"dataset {text!r}: expected NAME=annotations.json:image_folder", setting="dataset"
        )
    return DatasetSource(name, Path(json_file), Path(image_folder))


def find_source(name: str, given: Sequence[DatasetSource]) -> DatasetSource:
    """Finds the files of a dataset: given, a known dataset, or in Detectron2's catalog.

    Detectron2's own COCO sets lie under ``DETECTRON2_DATASETS``, the known ones of wbcnets under
    ``WBCNETS_DATASETS``; both default to ``datasets``.

    Raises:
        DataError: if the name is unknown or the dataset is not prepared; the message says how.
    """
    for source in given:
        if source.name == name:
            return source
    if name not in DATASET_NAMES and name in DatasetCatalog.list():
        metadata = MetadataCatalog.get(name)
        if metadata.get("json_file") and metadata.get("image_root"):
            return DatasetSource(name, Path(metadata.json_file), Path(metadata.image_root))
    return DatasetSource(name, *dataset_paths(name))


def register_known_datasets() -> None:
    """Registers the splits of all dataset cards, as Detectron2 registers its builtin datasets.

    The files are read when a dataset is asked for; one that is not prepared raises ``DataError``.
    """
    for card in DETECTION_CARDS.values():
        ids = range(1, len(card.class_names) + 1)
        for name in card.dataset_names:
            if name not in DatasetCatalog.list():
                paths = dataset_paths(name, must_exist=False)
                _register(
                    name,
                    partial(_load_known, name, card.class_names),
                    *paths,
                    card.class_names,
                    ids,
                )


def _load_known(name: str, class_names: Sequence[str]) -> list[dict[str, Any]]:
    dataset = load_coco(*dataset_paths(name))
    _check_classes(dataset, class_names)
    return to_detectron2(dataset, class_names)


def register_datasets(
    train: Sequence[str],
    test: Sequence[str],
    given: Sequence[DatasetSource],
    cache: Path,
    class_names: Sequence[str] = (),
    held_out: float = 0.0,
) -> dict[str, CocoDataset]:
    """Checks every dataset and registers it, with one class order for all of them.

    The order is that of ``class_names``, else of the first training set's JSON. Training and
    evaluation both read the checked annotations.

    Args:
        train: Names of the training sets.
        test: Names of the test sets.
        given: Datasets that are not known by name, or take the place of known ones.
        cache: Folder for the checked annotations.
        class_names: The classes in the order of the labels, if a checkpoint fixes it.
        held_out: The fraction of each training set that becomes a set of its own, see
            ``held_out_name``.

    Returns:
        The datasets by name.

    Raises:
        DataError: if a dataset is unusable, its classes differ from those of the others, or a part
            of a training set would be empty.
    """
    datasets: dict[str, CocoDataset] = {}
    names = tuple(class_names)
    for name in dict.fromkeys([*train, *test]):
        source = find_source(name, given)
        dataset = load_coco(source.json_file, source.image_folder)
        logger.info(dataset.summary())
        names = names or tuple(dataset.class_names)
        _check_classes(dataset, names)
        parts = {name: dataset}
        if held_out and name in train:
            kept, out = dataset.split(held_out)
            parts = {name: kept, held_out_name(name): out}
            logger.info(f"{name}: {len(out.images)} images are held out of the training")
        for part, content in parts.items():
            _register_checked(part, content, source.image_folder, cache, names)
        datasets |= parts
    return datasets


def held_out_name(name: str) -> str:
    """Returns the name of the part of a training set that is not trained on."""
    return f"{name}_held_out"


def choosing_sets(cfg: CfgNode) -> tuple[str, ...]:
    """Returns the sets that choose the best checkpoint: held-out parts, or else the test sets."""
    if cfg.DATASETS.HELD_OUT:
        return tuple(held_out_name(name) for name in cfg.DATASETS.TRAIN)
    return tuple(cfg.DATASETS.TEST)


def _register_checked(
    name: str, dataset: CocoDataset, image_folder: Path, cache: Path, names: Sequence[str]
) -> None:
    dataset.save(cache / f"{name}.json")
    category_ids = dict(zip(dataset.class_names, dataset.category_ids))
    _register(
        name,
        partial(to_detectron2, dataset, names),
        cache / f"{name}.json",
        image_folder,
        names,
        [category_ids[class_name] for class_name in names],
    )


def save_data_report(folder: Path, datasets: Mapping[str, CocoDataset]) -> None:
    """Writes ``data_report.json``: counts of boxes and images, and every exception by name."""
    report = {
        name: {
            "source": dataset.source,
            "boxes": vars(dataset.counts),
            "images": vars(dataset.image_counts),
            "boxes_per_class": dataset.box_counts,
            "repaired": dataset.report.repaired + dataset.report.repaired_images,
            "dropped": dataset.report.dropped,
            "notes": dataset.report.notes,
        }
        for name, dataset in datasets.items()
    }
    write_json(report, folder / "data_report.json")


def _check_classes(dataset: CocoDataset, class_names: Sequence[str]) -> None:
    if set(dataset.class_names) != set(class_names):
        raise DataError(
            f"{dataset.source}: has the classes {list(dataset.class_names)}, but the model or the "
            f"training set has {list(class_names)}; the names must be the same, in any order"
        )


def _register(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    json_file: Path,
    image_folder: Path,
    class_names: Sequence[str],
    category_ids: Iterable[int],
) -> None:
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(image_folder),
        evaluator_type="coco",
        thing_classes=list(class_names),
        thing_dataset_id_to_contiguous_id={id_: label for label, id_ in enumerate(category_ids)},
    )


def to_detectron2(dataset: CocoDataset, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a dataset in Detectron2's standard form.

    Args:
        dataset: The checked dataset.
        class_names: Its classes in the order of the labels.
    """
    label_of = [class_names.index(own) for own in dataset.class_names]
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
    """Counts the objects of each class in registered datasets, without crowds."""
    labels = [
        annotation["category_id"]
        for name in names
        for record in DatasetCatalog.get(name)
        for annotation in record["annotations"]
        if not annotation["iscrowd"]
    ]
    return np.bincount(np.array(labels, dtype=np.int64), minlength=num_classes).tolist()


def most_objects(names: Sequence[str]) -> tuple[int, str]:
    """Returns the number of objects in the densest image of registered datasets, and its file."""
    sizes = [
        (len(record["annotations"]), record["file_name"])
        for name in names
        for record in DatasetCatalog.get(name)
    ]
    return max(sizes, default=(0, ""))
