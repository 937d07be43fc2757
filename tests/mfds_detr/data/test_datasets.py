import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mfds_detr.data.datasets import (
    DatasetSource,
    choosing_sets,
    count_labels,
    find_source,
    most_objects,
    parse_dataset,
    register_datasets,
)
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.cards.paths import DATASET_NAMES, dataset_paths
from wbcnets.errors import ConfigError, DataError

NAMES = ("neutrophil", "lymphocyte", "monocyte")


def write_set(folder, ids=(0, 4, 9), names=NAMES, boxes=None):
    """Two images of 60x40; boxes are (image, category name, box)."""
    folder.mkdir(parents=True)
    for index in (1, 2):
        Image.fromarray(np.full((40, 60, 3), 90 * index, np.uint8)).save(folder / f"{index}.png")
    if boxes is None:
        boxes = [(1, names[0], [5, 6, 20, 10]), (1, names[2], [30, 8, 12, 12])]
    id_of = dict(zip(names, ids))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in (1, 2)],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": id_of[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i, (image, name, box) in enumerate(boxes)
        ],
        "categories": [{"id": i, "name": name} for name, i in id_of.items()],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return DatasetSource(folder.name, folder / "annotations.json", folder)


def test_command_line():
    source = parse_dataset("mine=data/train.json:data/images")
    assert source.name == "mine"
    assert str(source.json_file) == "data/train.json"
    assert str(source.image_folder) == "data/images"
    # The last colon separates; the path may have others, and an equals sign
    source = parse_dataset("mine=a:b=c/train.json:images")
    assert str(source.json_file) == "a:b=c/train.json"


@pytest.mark.parametrize(
    "text",
    ["", "mine", "mine=train.json", "=train.json:images", "mine=:images", "mine=train.json:"],
)
def test_command_line_mistakes(text):
    with pytest.raises(ConfigError, match=r"expected NAME=annotations\.json:image_folder"):
        parse_dataset(text)


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (0, 4, 9), (7, 5, 90)])
def test_ids_may_start_anywhere_and_have_gaps(tmp_path, ids):
    source = write_set(tmp_path / "ids", ids)
    datasets = register_datasets(["ids"], [], [source], tmp_path / "cache")
    names = datasets["ids"].class_names
    assert set(names) == set(NAMES)
    records = DatasetCatalog.get("ids")
    assert [record["image_id"] for record in records] == [1, 2]
    assert (records[0]["width"], records[0]["height"]) == (60, 40)
    first, second = records[0]["annotations"]
    assert names[first["category_id"]] == "neutrophil"
    assert names[second["category_id"]] == "monocyte"
    assert first["bbox"] == [5, 6, 20, 10]
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    assert records[1]["annotations"] == []  # kept as a negative
    metadata = MetadataCatalog.get("ids")
    assert metadata.thing_classes == list(names)
    id_of = dict(zip(NAMES, ids))
    assert metadata.thing_dataset_id_to_contiguous_id == {
        id_of[name]: label for label, name in enumerate(names)
    }


def test_classes_are_matched_by_name(tmp_path):
    train = write_set(tmp_path / "train_order")
    test = write_set(tmp_path / "test_order", ids=(3, 1, 2), names=NAMES[::-1])
    register_datasets(["train_order"], ["test_order"], [train, test], tmp_path / "cache")
    names = MetadataCatalog.get("train_order").thing_classes
    assert MetadataCatalog.get("test_order").thing_classes == names
    # The first box of the test set has its first class, "monocyte"
    first = DatasetCatalog.get("test_order")[0]["annotations"][0]
    assert names[first["category_id"]] == "monocyte"
    mapping = MetadataCatalog.get("test_order").thing_dataset_id_to_contiguous_id
    assert mapping[3] == names.index("monocyte")


def test_a_checkpoint_may_fix_the_order(tmp_path):
    source = write_set(tmp_path / "fixed")
    order = ("monocyte", "neutrophil", "lymphocyte")
    register_datasets([], ["fixed"], [source], tmp_path / "cache", order)
    annotations = DatasetCatalog.get("fixed")[0]["annotations"]
    assert [a["category_id"] for a in annotations] == [1, 0]


def test_other_classes_are_refused(tmp_path):
    train = write_set(tmp_path / "train_classes")
    test = write_set(tmp_path / "test_classes", names=("neutrophil", "lymphocyte", "blast"))
    with pytest.raises(DataError) as caught:
        register_datasets(["train_classes"], ["test_classes"], [train, test], tmp_path / "cache")
    message = str(caught.value)
    assert str(test.json_file) in message
    assert "blast" in message
    assert "monocyte" in message


def test_the_same_name_again_replaces(tmp_path):
    first = write_set(tmp_path / "one" / "again")
    second = write_set(tmp_path / "two" / "again", boxes=[(2, "monocyte", [1, 1, 9, 9])])
    register_datasets(["again"], [], [first], tmp_path / "cache")
    register_datasets(["again"], [], [second], tmp_path / "cache")
    assert [len(r["annotations"]) for r in DatasetCatalog.get("again")] == [0, 1]


def test_evaluation_reads_what_training_sees(tmp_path):
    boxes = [(1, "neutrophil", [5, 6, 20, 10]), (1, "monocyte", [30, 8, 0, 12])]
    source = write_set(tmp_path / "dropped", boxes=boxes)
    register_datasets(["dropped"], [], [source], tmp_path / "cache")
    assert len(DatasetCatalog.get("dropped")[0]["annotations"]) == 1
    cached = json.loads((tmp_path / "cache" / "dropped.json").read_text())
    assert len(cached["annotations"]) == 1
    assert cached["annotations"][0]["id"] == 1  # COCO's evaluation takes 0 for "no match"


def test_unknown_names_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("WBCNETS_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match="no_such_set"):
        find_source("no_such_set", [])
    with pytest.raises(DataError, match="wbcnets prepare bccd"):
        find_source("bccd_train", [])


def test_known_datasets_are_registered_and_read_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("WBCNETS_DATASETS", str(tmp_path))
    assert set(DATASET_NAMES) <= set(DatasetCatalog.list())
    names = DETECTION_CARDS["lisc"].class_names
    assert MetadataCatalog.get("lisc_train").thing_classes == list(names)
    with pytest.raises(DataError, match="wbcnets prepare lisc"):
        DatasetCatalog.get("lisc_train")
    boxes = [(1, names[3], [5, 6, 20, 10])]
    source = write_set(tmp_path / "lisc" / "images", (1, 2, 3, 4, 5), names, boxes)
    json_file, _ = dataset_paths("lisc_train", must_exist=False)
    json_file.parent.mkdir()
    source.json_file.rename(json_file)
    first, second = DatasetCatalog.get("lisc_train")
    assert [annotation["category_id"] for annotation in first["annotations"]] == [3]
    assert second["annotations"] == []
    json_file.write_text(json_file.read_text().replace(names[4], "blast"))
    with pytest.raises(DataError, match=r"train\.json: has the classes .*blast"):
        DatasetCatalog.get("lisc_train")


def test_counts(tmp_path):
    boxes = [
        (1, "monocyte", [1, 1, 9, 9]),
        (2, "monocyte", [1, 1, 9, 9]),
        (2, "lymphocyte", [20, 1, 9, 9]),
    ]
    source = write_set(tmp_path / "counts", boxes=boxes)
    register_datasets(["counts"], [], [source], tmp_path / "cache")
    assert count_labels(["counts"], 3) == [0, 1, 2]
    most, image = most_objects(["counts"])
    assert most == 2
    assert image.endswith("2.png")
    assert most_objects([]) == (0, "")


def test_a_part_of_each_training_set_is_held_out(smears, tiny_config, tmp_path):
    sources = [DatasetSource(name, *smears) for name in ("one", "two", "tested")]
    found = register_datasets(["one", "two"], ["tested"], sources, tmp_path, held_out=0.5)
    assert set(found) == {"one", "one_held_out", "two", "two_held_out", "tested"}
    for name in ("one", "two"):
        parts = [
            {record["file_name"] for record in DatasetCatalog.get(part)}
            for part in (name, f"{name}_held_out")
        ]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == {r["file_name"] for r in DatasetCatalog.get("tested")}
        json_file = MetadataCatalog.get(f"{name}_held_out").json_file
        assert len(json.loads(Path(json_file).read_text())["images"]) == len(parts[1])
    keys = ("DATASETS.TRAIN", ("one", "two"), "DATASETS.TEST", ("tested",))
    assert choosing_sets(tiny_config(*keys)) == ("tested",)
    held_out = tiny_config(*keys, "DATASETS.HELD_OUT", 0.5)
    assert choosing_sets(held_out) == ("one_held_out", "two_held_out")


def test_too_few_images_to_hold_any_out(tmp_path):
    source = write_set(tmp_path / "few")
    with pytest.raises(DataError, match=r"2 images are too few to hold 1% out"):
        register_datasets(["few"], [], [source], tmp_path / "cache", held_out=0.01)
