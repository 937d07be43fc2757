"""Shipped detectors predict by their name alone; training, evaluation and loading go together."""

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mfds_detr.api import evaluate_detector, load_detector, train_detector
from mfds_detr.project_files import project_files
from wbcnets.errors import CheckpointError, ConfigError
from wbcnets.synthetic.smears import generate_smear

SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "TEST.SAMPLE_PICTURES", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1, "TEST.EVAL_PERIOD", 0),
]


@pytest.mark.parametrize("name", sorted(project_files("weights")))
def test_shipped_weights_find_cells_by_their_name_alone(name):
    smear = generate_smear(seed=3)
    (found,) = load_detector(name, device="cpu").predict(smear.image)
    assert len(found)
    assert found.boxes.shape == (len(found), 4)
    assert set(found.class_names) <= set(load_detector(f"wbcnets://{name}").class_names)
    assert np.all(found.scores >= 0.3)


def test_unknown_names_list_the_shipped_ones():
    with pytest.raises(CheckpointError, match=r"no_such.*mfds_detr_tiny_bccd"):
        load_detector("no_such")
    with pytest.raises(ConfigError, match=r"mfds_detr_tiny.*did you mean.*mfds_detr_tiny_base"):
        load_detector("mfds_detr_tiny_bccd", config_file="mfds_detr_tiny")


def test_train_evaluate_and_load(smears, tiny_command_line, tmp_path):
    small = [*tiny_command_line[2:], *SMALL]
    weights = train_detector(smears, smears, output=tmp_path / "run", overrides=small)
    assert weights == tmp_path / "run" / "model_best.pth"
    metrics = evaluate_detector(weights, smears, device="cpu")
    assert {"AP", "AP50", "AP75"} <= metrics["test"].keys()
    again = evaluate_detector(weights, [smears, smears], output=tmp_path / "evaluation")
    assert again["test_0"] == again["test_1"]
    np.testing.assert_equal(again["test_0"], metrics["test"])
    assert (tmp_path / "evaluation" / "evaluation.md").is_file()
    assert len(load_detector(weights, threshold=0.0).predict(smears.images / "smear_000001.png"))
