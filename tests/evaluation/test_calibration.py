import json

import numpy as np
import pytest

from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import NAMES, save_run, small_model
from wbcnets.cli.main import main
from wbcnets.errors import CheckpointError, DataError
from wbcnets.evaluation.calibration import apply_temperature, fit_temperature, review_threshold
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predictions import Predictions
from wbcnets.evaluation.weighted_metrics import rejection_curve


def draw(temperature, count=4000):
    """Returns overconfident or underconfident probabilities, and labels of the true ones."""
    generator = np.random.default_rng(0)
    true = generator.dirichlet((0.4, 0.4, 0.4), count)
    labels = np.array([generator.choice(3, p=row) for row in true])
    return apply_temperature(true, 1 / temperature), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_logits_is_found(temperature):
    assert fit_temperature(*draw(temperature)) == pytest.approx(temperature, rel=0.06)


def test_a_temperature_changes_no_class():
    probabilities, _ = draw(1.0, 50)
    for temperature in (0.1, 1.0, 10.0):
        scaled = apply_temperature(probabilities, temperature)
        assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities, atol=1e-12)


def test_the_threshold_lets_most_known_cells_through():
    probabilities, labels = draw(1.0)
    threshold = review_threshold(probabilities, labels, ("a", "b", "other"), 0.95)
    known = labels != 2
    accepted = probabilities[known].max(axis=1) >= threshold
    assert accepted.mean() == pytest.approx(0.95, abs=0.002)
    assert review_threshold(probabilities[~known], labels[~known], ("a", "b", "other")) == 0


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images to calibrate on"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))


def test_the_rejection_curve_keeps_the_surest_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    coverage, accuracy, threshold = rejection_curve(probabilities, np.array([1, 0, 1, 0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 0.5])
    assert threshold.tolist() == [0.9, 0.8, 0.7, 0.6]


def test_unsure_cells_and_other_things_go_to_review():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.0, 0.1, 0.9]])
    predictions = Predictions(("a", "b", "other"), ("x", "y", "z"), probabilities)
    assert predictions.review.tolist() == [False, False, True]
    unsure = Predictions(("a", "b", "other"), ("x", "y", "z"), probabilities, review_below=0.6)
    assert [found.review for found in unsure.to_list()] == [False, True, True]


@pytest.fixture
def cells(tmp_path):
    return make_class_folders(tmp_path / "cells", dict.fromkeys(NAMES, 4))


@pytest.mark.parametrize("output", ["cells.safetensors", "folder"])
def test_exported_weights_keep_their_calibration(output, cells, tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    words = ["--weights", str(tmp_path / "best.pth"), "--output", str(tmp_path / output)]
    words += ["--calibrate", str(cells), "--split", ""]
    assert main(["export", "cells", *words]) == 0
    assert "temperature" in capsys.readouterr().out
    classifier = load_classifier(tmp_path / output, device="cpu")
    plain = load_classifier(tmp_path / "best.pth", device="cpu")
    calibration = classifier.calibration
    assert calibration.temperature != 1.0
    assert 0 < calibration.review_below < 1
    images = sorted(map(str, cells.rglob("*.png")))
    before, after = (
        np.array([list(found.probabilities.values()) for found in c.predict(images)])
        for c in (plain, classifier)
    )
    expected = apply_temperature(before, calibration.temperature)
    np.testing.assert_allclose(after, expected, atol=2e-3)  # the file holds float16


def test_predict_lists_what_needs_a_look(cells, tmp_path, capsys):
    save_run(
        tmp_path / "best.pth",
        small_model(),
        calibration={"temperature": 2.0, "review_below": 0.999},
    )
    output = tmp_path / "found" / "cells.csv"
    words = ["--weights", str(tmp_path / "best.pth"), "--input", str(cells)]
    assert main(["predict", "cells", *words, "--output", str(output)]) == 0
    assert "12 of them need a look" in capsys.readouterr().out
    rows = (output.parent / "review.csv").read_text().splitlines()
    assert rows[0] == "file,predicted,probability"
    assert len(rows) == 13
    probabilities = [float(row.rpartition(",")[2]) for row in rows[1:]]
    assert probabilities == sorted(probabilities)


@pytest.mark.parametrize(
    "calibration", [{"temperature": 0.0}, {"temperature": "hot"}, {"review_below": 1.5}, 3]
)
def test_a_wrong_calibration_is_an_error_that_names_the_file(calibration, tmp_path):
    save_run(tmp_path / "best.pth", small_model(), calibration=calibration)
    with pytest.raises(CheckpointError, match=r"best\.pth: does not describe a classifier"):
        load_classifier(tmp_path / "best.pth")


def test_evaluation_writes_the_rejection_curve(cells, tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    words = ["--weights", str(tmp_path / "best.pth"), "--data", str(cells), "--split", ""]
    options = ["--output", str(tmp_path / "report"), "--bootstrap", "0", "--workers", "0"]
    assert main(["evaluate", "cells", *words, *options]) == 0
    rows = (tmp_path / "report" / "rejection.csv").read_text().splitlines()
    assert rows[0] == "coverage,accuracy,threshold"
    assert len(rows) == 101
    overall = json.loads((tmp_path / "report" / "metrics.json").read_text())["overall"]
    assert float(rows[-1].split(",")[1]) == pytest.approx(overall["accuracy"], abs=1e-6)
