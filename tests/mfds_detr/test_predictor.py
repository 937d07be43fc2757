"""The predictor gives the model's own boxes, and refuses weights and images it cannot use."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.structures import Boxes, Instances

from mfds_detr.data.dataset_mapper import SmearMapper
from mfds_detr.predictor import DEFAULT_THRESHOLD, LeukocytePredictor, one_per_cell
from tests.mfds_detr.conftest import NAMES
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.io.images import read_image


def test_the_boxes_are_those_of_the_model(trained, images):
    predictor = LeukocytePredictor(trained.weights, device="cpu", threshold=0.5)
    for path in (images / "a.png", images / "slide_1" / "b.jpg"):
        height, width = read_image(path).shape[:2]
        record = {"file_name": str(path), "height": height, "width": width}
        with torch.no_grad():
            entry = SmearMapper.from_config(trained.cfg, is_train=False)(record)
            found = trained.model([entry])[0]["instances"]
        expected = one_per_cell(found[found.scores >= 0.5])
        (given,) = predictor.predict(path)
        assert len(given) == len(expected) > 0
        np.testing.assert_allclose(given.boxes, expected.pred_boxes.tensor, rtol=1e-5)
        np.testing.assert_allclose(given.scores, expected.scores, rtol=1e-5)
        assert given.labels.tolist() == expected.pred_classes.tolist()
        assert given.class_names == tuple(NAMES[label] for label in given.labels)
        assert [array.dtype for array in (given.boxes, given.scores, given.labels)] == [
            np.float32, np.float32, np.int64
        ]  # fmt: skip


def test_images_of_all_kinds_and_in_lists(trained, images):
    predictor = LeukocytePredictor(trained.weights, threshold=0.5)
    path = images / "a.png"
    array = read_image(path)
    listed = predictor.predict([path, str(path), array, Image.fromarray(array)])
    single = [predictor.predict(image)[0] for image in (path, array, Image.fromarray(array))]
    for found in [*listed, *single]:
        assert np.array_equal(found.boxes, listed[0].boxes)
    assert predictor.predict([]) == []
    with pytest.raises(DataError, match=r"broken\.png"):
        predictor.predict([path, images / "broken.png"])


def test_detections_for_supervision(trained, images, monkeypatch):
    given = {}
    module = SimpleNamespace(Detections=lambda **arguments: given.update(arguments))
    monkeypatch.setitem(sys.modules, "supervision", module)
    (found,) = LeukocytePredictor(trained.weights).predict(images / "a.png")
    found.to_supervision()
    assert given["xyxy"] is found.boxes
    assert given["confidence"] is found.scores
    assert given["class_id"] is found.labels
    assert given["data"]["class_name"].tolist() == list(found.class_names)


def test_a_higher_threshold_keeps_fewer(trained, images):
    predictor = LeukocytePredictor(trained.weights, threshold=0.0)
    (everything,) = predictor.predict(images / "a.png")
    predictor.thresholds = (float(np.median(everything.scores)),) * len(predictor.class_names)
    assert 0 < len(predictor.predict(images / "a.png")[0]) < len(everything)


def test_a_box_has_one_class_its_best() -> None:
    found = Instances((10, 10))
    one, other = [1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 9.0, 9.0]
    found.pred_boxes = Boxes(torch.tensor([one, other, one, other, one]))
    found.scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    found.pred_classes = torch.tensor([2, 0, 1, 2, 0])
    kept = one_per_cell(found)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8])
    assert kept.pred_classes.tolist() == [2, 0]
    assert len(one_per_cell(found[:0])) == 0


def test_the_moving_average_is_preferred(trained, images, tmp_path):
    (tmp_path / "config.yaml").write_bytes(trained.weights.with_name("config.yaml").read_bytes())
    averaged = trained.model.state_dict()
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    torch.save({"model": raw, "ema": averaged, "class_names": NAMES}, tmp_path / "model.pth")
    given, expected = (
        LeukocytePredictor(weights, threshold=0.5).predict(images / "a.png")[0]
        for weights in (tmp_path / "model.pth", trained.weights)
    )
    assert np.array_equal(given.scores, expected.scores)


def test_the_config_is_looked_for_beside_the_weights(trained, tmp_path):
    weights = tmp_path / "mine.pth"
    weights.write_bytes(trained.weights.read_bytes())
    with pytest.raises(ConfigError, match=r"config\.yaml: no such file.*beside the weights"):
        LeukocytePredictor(weights)
    config = trained.weights.with_name("config.yaml")
    assert LeukocytePredictor(weights, config_file=config).class_names == NAMES
    (tmp_path / "mine.yaml").write_bytes(config.read_bytes())
    (tmp_path / "config.yaml").write_text("of other weights")
    assert LeukocytePredictor(weights).class_names == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ({}, "holds no weights"),
        ({"model": {"detector.x": torch.zeros(1)}}, "no class names"),
        ({"model": {"layer1.weight": torch.ones(1)}, "class_names": NAMES}, "no trained MFDS-DETR"),
    ],
)
def test_unusable_weights(trained, tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        LeukocytePredictor(path, config_file=trained.weights.with_name("config.yaml"))
    assert "weights.pth" in str(caught.value)


def test_heads_of_another_number_of_classes_are_refused(trained, tmp_path):
    content = {"model": trained.model.state_dict(), "class_names": NAMES[:2]}
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"shape \(3, 64\), but 2 classes"):
        LeukocytePredictor(
            tmp_path / "weights.pth", config_file=trained.weights.with_name("config.yaml")
        )


def test_impossible_settings(trained, tmp_path):
    with pytest.raises(ConfigError, match="threshold 40"):
        LeukocytePredictor(trained.weights, threshold=40)
    with pytest.raises(ConfigError, match="toaster"):
        LeukocytePredictor(trained.weights, device="toaster")
    (tmp_path / "bad.yaml").write_text("MODEL: [unclosed")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        LeukocytePredictor(trained.weights, config_file=tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=["gray", "float", "empty"],
)
def test_an_array_that_is_no_image_is_refused(trained, image):
    with pytest.raises(DataError, match="expected uint8"):
        LeukocytePredictor(trained.weights).predict(image)


def with_calibration(trained, folder, **values):
    """Writes the checkpoint's config with a calibration; returns its path."""
    cfg = trained.cfg.clone()
    for key, numbers in values.items():
        cfg.TEST.CALIBRATION[key] = numbers
    path = folder / "calibrated.yaml"
    path.write_text(cfg.dump())
    return path


def test_each_class_has_its_threshold(trained, images, tmp_path):
    every = LeukocytePredictor(trained.weights, threshold=0.0)
    (found,) = every.predict(images / "a.png")
    thresholds = [0.55, 0.0, 1.0]
    config = with_calibration(trained, tmp_path, THRESHOLDS=thresholds)
    own = LeukocytePredictor(trained.weights, config_file=config)
    assert own.thresholds == tuple(thresholds)
    (kept,) = own.predict(images / "a.png")
    assert len(kept)
    assert (kept.scores >= np.array(thresholds)[kept.labels]).all()
    assert 2 not in kept.labels
    assert set(found.labels.tolist()) > set(kept.labels.tolist())
    asked = LeukocytePredictor(trained.weights, config_file=config, threshold=0.4)
    assert asked.thresholds == (0.4,) * 3
    assert LeukocytePredictor(trained.weights).thresholds == (DEFAULT_THRESHOLD,) * 3


def test_scores_are_calibrated(trained, images, tmp_path):
    slopes, offsets = [2.0, 2.0, 2.0], [-0.5, -0.5, -0.5]
    config = with_calibration(trained, tmp_path, SLOPES=slopes, OFFSETS=offsets)
    plain, calibrated = (
        LeukocytePredictor(trained.weights, threshold=0.0, config_file=file).predict(
            images / "a.png"
        )[0]
        for file in (None, config)
    )
    logits = np.log(plain.scores / (1 - plain.scores))
    np.testing.assert_allclose(
        calibrated.scores, 1 / (1 + np.exp(0.5 - 2 * logits)), rtol=1e-4, atol=1e-6
    )
    assert np.array_equal(calibrated.boxes, plain.boxes)


@pytest.mark.parametrize("key", ["SLOPES", "OFFSETS", "THRESHOLDS"])
def test_a_calibration_of_other_classes_is_refused(trained, tmp_path, key):
    config = with_calibration(trained, tmp_path, **{key: [0.5, 0.5]})
    config.write_text(config.read_text().replace("NUM_CLASSES: 3", "NUM_CLASSES: 0"))
    message = rf"CALIBRATION\.{key} has 2 numbers.*each of the 3 classes"
    with pytest.raises(ConfigError, match=message):
        LeukocytePredictor(trained.weights, config_file=config)


def test_batch_norms_are_folded(trained, images):
    predictor = LeukocytePredictor(trained.weights, threshold=0.5)
    kinds = [type(module).__name__ for module in predictor.model.modules()]
    assert not any(kind.startswith("BatchNorm") for kind in kinds)
    assert any(type(module).__name__.startswith("BatchNorm") for module in trained.model.modules())
