"""Scores are calibrated, and thresholds chosen, on images that are held out of the training."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog

from mfds_detr.config import read_config
from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine import calibration as module
from mfds_detr.engine.calibration import calibrate, detect_on, match_detections, set_calibration
from mfds_detr.engine.evaluation import LeukocyteEvaluator
from mfds_detr.engine.run import RunOptions, run
from mfds_detr.predictor import LeukocytePredictor
from tests.mfds_detr.conftest import PLUS
from tests.mfds_detr.engine.test_evaluation import detections
from wbcnets.evaluation.operating_points import ScoredDetections

NAMES = ("red", "white")
# Image 1 has two white cells and a crowd of them, image 2 a red one, image 3 nothing
BOXES = [(1, 7, [5, 5, 20, 20], 0), (1, 7, [40, 5, 20, 20], 0), (1, 7, [0, 40, 80, 20], 1),
         (2, 3, [10, 10, 30, 30], 0)]  # fmt: skip


@pytest.fixture
def cells(tmp_path):
    """Registers three images of 80x60 px as the set "cells"; the labels are 0 red, 1 white."""
    for index in (1, 2, 3):
        Image.new("RGB", (80, 60), (index, 0, 0)).save(tmp_path / f"{index}.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2, 3)
        ],
        "categories": [{"id": 3, "name": "red"}, {"id": 7, "name": "white"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box,
             "area": box[2] * box[3], "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(BOXES, 1)
        ],
    }  # fmt: skip
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(content))
    register_datasets([], ["cells"], [DatasetSource("cells", path, tmp_path)], tmp_path / "cache")
    return "cells"


def evaluated(name, folder, found):
    """Returns the evaluation of boxes, labels and scores by image id."""
    evaluator = LeukocyteEvaluator(name, folder)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        given = found.get(record["image_id"], ([], [], []))
        evaluator.process([record], [{"instances": detections(record, *given)}])
    evaluator.evaluate()
    return evaluator.evaluated


def test_matches_by_hand(cells, tmp_path):
    one, other, red = [5.0, 5.0, 25.0, 25.0], [40.0, 5.0, 60.0, 25.0], [10.0, 10.0, 40.0, 40.0]
    found = {
        # A white cell, a duplicate, half of the other one, one in the crowd, a class mixed up
        1: ([one, one, [40.0, 5.0, 49.0, 25.0], [10.0, 45.0, 30.0, 55.0], other],
            [1, 1, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5]),
        2: ([red], [0], [0.4]),
        3: ([one], [1], [0.3]),
    }  # fmt: skip
    reds, whites = match_detections(evaluated(cells, tmp_path / "out", found), cells)
    assert reds.scores.tolist() == pytest.approx([0.5, 0.4])
    assert reds.correct.tolist() == [False, True]
    assert reds.images.tolist() == [0, 1]
    assert reds.objects.tolist() == [0, 1, 0]
    assert whites.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.3])
    assert whites.correct.tolist() == [True, False, False, False]
    assert whites.images.tolist() == [0, 0, 0, 2]
    assert whites.objects.tolist() == [2, 0, 0]


def test_labels_may_have_another_order_than_the_file(cells, tmp_path):
    source = DatasetSource("cells", tmp_path / "cells.json", tmp_path)
    register_datasets([], ["cells"], [source], tmp_path / "cache", ("white", "red"))
    found = {2: ([[10.0, 10.0, 40.0, 40.0]], [1], [0.4])}
    whites, reds = match_detections(evaluated(cells, tmp_path / "out", found), cells)
    assert (whites.objects.sum(), reds.objects.sum()) == (2, 1)
    assert reds.correct.tolist() == [True]


def test_no_detection_at_all(cells, tmp_path, caplog):
    assert evaluated(cells, tmp_path / "out", {}) is None
    found = match_detections(None, cells)
    assert [part.objects.tolist() for part in found] == [[0, 1, 0], [2, 0, 0]]
    assert [len(part.scores) for part in found] == [0, 0]
    chosen = calibrate(found, NAMES, tmp_path / "calibration")
    assert [scores.point.threshold for scores in chosen] == [0.3, 0.3]
    assert caplog.text.count("nothing of this class was detected") == 2
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert report["detection_calibration_error"] == {"before": None, "after": None}
    assert (tmp_path / "calibration.png").is_file()


def test_images_of_several_sets_are_apart(cells, tmp_path, monkeypatch, tiny_config):
    found = evaluated(cells, tmp_path / "out", {2: ([[10.0, 10.0, 40.0, 40.0]], [0], [0.4])})
    answers = {"cells": found, "again": None}
    source = DatasetSource("again", tmp_path / "cells.json", tmp_path)
    register_datasets([], ["again"], [source], tmp_path / "cache")

    class Evaluator:
        def __init__(self, cfg, model, name):
            self.evaluated = answers[name]

    monkeypatch.setattr(module, "run_evaluator", Evaluator)
    reds, whites = detect_on(tiny_config(), None, ["again", "cells"])
    assert reds.objects.tolist() == [0, 1, 0, 0, 1, 0]
    assert reds.images.tolist() == [4]
    assert whites.objects.tolist() == [2, 0, 0, 2, 0, 0]


def scored(count, seed):
    """Scores of which half as many are correct as they say."""
    random = np.random.default_rng(seed)
    scores = random.random(count)
    correct = random.random(count) < scores / 2
    return ScoredDetections(scores, correct, random.integers(0, 40, count), np.full(40, 5))


def test_the_report(tmp_path, tiny_config, caplog):
    empty = ScoredDetections(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.zeros(40, int))
    chosen = calibrate([scored(3000, 0), empty], NAMES, tmp_path / "mine", "recall", 0.9)
    report = json.loads((tmp_path / "mine.json").read_text())
    assert (report["images"], report["goal"], report["at_least"]) == (40, "recall", 0.9)
    error = report["detection_calibration_error"]
    assert error["before"] > 0.2
    assert error["after"] < 0.05
    assert report["classes"]["red"]["recall"] >= 0.9
    assert report["classes"]["red"]["slope"] == chosen[0].calibration.slope
    assert report["classes"]["white"]["threshold"] == 0.3
    assert "white: the validation set has no object of this class" in caplog.text
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.width > 500
    cfg = tiny_config()
    set_calibration(cfg, chosen)
    values = cfg.TEST.CALIBRATION
    assert [(slope, offset) for slope, offset in zip(values.SLOPES, values.OFFSETS)] == [
        pytest.approx(tuple(scores.calibration), abs=1e-6) for scores in chosen
    ]
    assert pytest.approx([s.point.threshold for s in chosen], abs=1e-6) == values.THRESHOLDS
    assert read_config("", [*flat(values), "MODEL.MFDS_DETR.NUM_CLASSES", 2])


def flat(values):
    return [part for key in values for part in (f"TEST.CALIBRATION.{key}", values[key])]


def train(tiny_config, smears, folder, *overrides):
    """Trains two steps with half of the images held out; returns the options and the config."""
    keys = (
        "DATASETS.TRAIN", ("mine",), "DATASETS.TEST", (), "DATASETS.HELD_OUT", 0.5,
        "MODEL.MFDS_DETR.NUM_CLASSES", 0, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", 2,
        "SOLVER.IMS_PER_BATCH", 2, "INPUT.CANVAS", (96, 96), "INPUT.CELL_PASTE", 0.5,
        "INPUT.MIN_SIZE_TEST", 96, "TEST.EVAL_PERIOD", 0, "TEST.SAMPLE_PICTURES", 0,
        "SOLVER.EMA.DECAY", 0.5,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    cfg = tiny_config(*PLUS, *keys, *overrides)
    run(cfg, RunOptions((DatasetSource("mine", *smears),)))
    return cfg


def test_a_training_leaves_thresholds_that_predictions_use(tiny_config, smears, tmp_path):
    # The calibration of other weights, which this training starts without
    stale = ("TEST.CALIBRATION.SLOPES", [9.0] * 5, "TEST.CALIBRATION.THRESHOLDS", [0.99] * 5)
    train(tiny_config, smears, tmp_path, *stale)
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert report["images"] == len(DatasetCatalog.get("mine_held_out"))
    assert (tmp_path / "calibration.png").is_file()
    predictor = LeukocytePredictor(tmp_path / "model_best.pth")
    assert tuple(report["classes"]) == predictor.class_names
    rows = report["classes"].values()
    assert predictor.thresholds == pytest.approx([row["threshold"] for row in rows], abs=1e-6)
    assert predictor.model.score_slopes.tolist() == pytest.approx([r["slope"] for r in rows], 1e-5)
    assert predictor.model.score_offsets.tolist() == pytest.approx(
        [row["offset"] for row in rows], abs=1e-5
    )
    assert 9.0 not in predictor.model.score_slopes
    for found in predictor.predict([next(smears.images.iterdir())]):
        assert (found.scores >= np.array(predictor.thresholds)[found.labels] - 1e-6).all()


@pytest.mark.long
def test_a_training_that_detects_nothing_ends_well(tiny_config, smears, tmp_path, caplog):
    train(tiny_config, smears, tmp_path, "TEST.SCORE_THRESHOLD", 1.0, "DATASETS.TEST", ("mine",))
    assert "nothing of this class was detected" in (tmp_path / "log.txt").read_text()
    assert LeukocytePredictor(tmp_path / "model_best.pth").thresholds == (0.3,) * 5
    results = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert results["mine"]["AP"] == 0
