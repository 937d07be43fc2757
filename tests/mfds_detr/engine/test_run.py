"""Before a run starts: the config takes classes and focal alpha from the data or the checkpoint."""

import json

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog

from mfds_detr.data.datasets import DatasetSource
from mfds_detr.engine.run import RunOptions, prepare
from mfds_detr.project_files import project_files
from wbcnets.data.detection.coco import load_coco
from wbcnets.errors import DataError
from wbcnets.io.checkpoints import read_checkpoint


@pytest.fixture
def run_config(tiny_config, smears, tmp_path):
    """Makes a config that trains and tests on a set, and the options that say where it lies."""

    def make(*overrides, json_file=smears.json_file, **options):
        cfg = tiny_config("MODEL.MFDS_DETR.NUM_CLASSES", 0, *overrides)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mine",)
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        source = DatasetSource("mine", json_file, smears.images)
        return cfg, RunOptions((source,), **options)

    return make


@pytest.mark.parametrize("shipped", [False, True])
def test_evaluation_keeps_the_checkpoints_class_order(run_config, smears, tmp_path, shipped):
    if shipped:
        name, path = next(iter(project_files("weights").items()))
        order, weights = tuple(read_checkpoint(path)["class_names"]), f"wbcnets://{name}"
    else:
        order, weights = ("neutrophil", "basophil", "monocyte"), str(tmp_path / "model.pth")
        torch.save({"model": {"a": torch.zeros(1)}, "class_names": order}, weights)
    content = json.loads(smears.json_file.read_text())
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(order[::-1])]
    for entry in content["annotations"]:
        entry["category_id"] = 0
    other = tmp_path / "reversed.json"
    other.write_text(json.dumps(content))
    found = prepare(*run_config("MODEL.WEIGHTS", weights, json_file=other, eval_only=True))
    assert found == order
    assert MetadataCatalog.get("mine").thing_classes == list(order)
    # A training takes the order of the dataset's ids
    assert prepare(*run_config("MODEL.WEIGHTS", weights, json_file=other)) == order[::-1]


def test_alpha_from_the_class_fractions(run_config, smears):
    cfg, options = run_config("MODEL.MFDS_DETR.LOSS.FOCAL_ALPHA_RULE", "fraction")
    prepare(cfg, options)
    content = json.loads(smears.json_file.read_text())
    labels = [annotation["category_id"] for annotation in content["annotations"]]
    expected = [
        min(max(labels.count(entry["id"]) / len(labels), 0.05), 0.95)
        for entry in content["categories"]
    ]
    assert pytest.approx(expected, abs=1e-5) == cfg.MODEL.MFDS_DETR.LOSS.FOCAL_ALPHA


def test_dense_images_are_warned_about(run_config, caplog):
    prepare(*run_config("MODEL.MFDS_DETR.NUM_QUERIES", 1))
    assert "some cannot be found" in caplog.text


def test_a_training_needs_an_object_in_its_test_sets(run_config, smears, tmp_path):
    content = json.loads(smears.json_file.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content))

    def prepare_with(*names):
        cfg, options = run_config("DATASETS.ALLOW_LEAKS", True)
        cfg.DATASETS.TEST = names
        source = DatasetSource("empty", empty, smears.images)
        prepare(cfg, RunOptions((*options.datasets, source)))

    with pytest.raises(DataError, match=r"empty: no object is annotated.*DATASETS\.TEST"):
        prepare_with("empty")
    prepare_with("empty", "mine")


def test_a_test_image_in_the_training_set_is_refused(run_config, smears, tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_text(smears.json_file.read_text())
    cfg, options = run_config()
    cfg.DATASETS.TEST = ("copy",)
    options = RunOptions((*options.datasets, DatasetSource("copy", copy, smears.images)))
    with pytest.raises(DataError, match=r"leaks.*set DATASETS\.ALLOW_LEAKS True"):
        prepare(cfg, options)
    cfg.DATASETS.ALLOW_LEAKS = True
    prepare(cfg, options)


def test_a_training_forgets_the_calibration_of_other_weights(run_config):
    values = ("TEST.CALIBRATION.SLOPES", [2.0] * 5, "TEST.CALIBRATION.THRESHOLDS", [0.4] * 5)
    cfg, options = run_config(*values)
    prepare(cfg, options)
    assert [*cfg.TEST.CALIBRATION.values()] == [[], [], []]
    cfg, options = run_config(*values, eval_only=True)
    prepare(cfg, options)
    assert cfg.TEST.CALIBRATION.THRESHOLDS == [0.4] * 5


def test_held_out_images_need_an_object(run_config, smears, tmp_path):
    content = json.loads(smears.json_file.read_text())
    trained_on = load_coco(smears.json_file, smears.images).split(0.5)[0].images[0]
    content["annotations"] = [
        {"id": 1, "image_id": trained_on.id, "category_id": 1, "bbox": [5, 5, 20, 20],
         "area": 400, "iscrowd": 0}
    ]  # fmt: skip
    sparse = tmp_path / "sparse.json"
    sparse.write_text(json.dumps(content))
    cfg, options = run_config("DATASETS.HELD_OUT", 0.5, json_file=sparse)
    cfg.DATASETS.TEST = ()
    with pytest.raises(DataError, match=r"mine_held_out: no object.*DATASETS\.HELD_OUT"):
        prepare(cfg, options)
    cfg, options = run_config(json_file=sparse)
    prepare(cfg, options)
