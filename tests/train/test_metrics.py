import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from wbcnets.errors import DataError
from wbcnets.train.metrics import (
    OVERALL,
    bootstrap_weights,
    expected_calibration_error,
    judge,
    weighted_figures,
)

NAMES = ("basophil", "eosinophil", "monocyte")


def predictions(images=200, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(classes, size=images)
    scores = generator.dirichlet(np.ones(classes), size=images) + 0.4 * np.eye(classes)[truth]
    return truth, scores / scores.sum(axis=1, keepdims=True)


def test_hand_worked_numbers():
    # Two of class a, one taken for b; one of class b, right. Confidences 0.9, 0.6, 0.8.
    scores = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
    judgement = judge([0, 0, 1], scores, ("a", "b"), resamples=0)
    overall = judgement.overall
    assert overall["accuracy"] == pytest.approx(2 / 3)
    assert overall["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert overall["precision_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert overall["f1_macro"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert overall["f1_weighted"] == pytest.approx(2 / 3)
    assert overall["specificity_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert overall["auroc_macro"] == pytest.approx(1)
    # Agreement 2/3; by chance (2/3 * 1/3 + 1/3 * 2/3) = 4/9
    assert overall["cohen_kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    # Each in a bin of its own: |1 - 0.9|, |0 - 0.6|, |1 - 0.8|
    assert overall["expected_calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2) / 3)
    loss = -(math.log(0.9) + math.log(0.4) + math.log(0.8)) / 3
    assert overall["log_loss"] == pytest.approx(loss)
    assert judgement.per_class["a"]["recall"] == pytest.approx(1 / 2)
    assert judgement.per_class["b"]["specificity"] == pytest.approx(1 / 2)
    assert judgement.per_class["a"]["support"] == 2


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_point_estimates_and_weighted_figures_agree_with_scikit_learn(classes):
    truth, scores = predictions(classes=classes)
    names = [f"class {place}" for place in range(classes)]
    overall = judge(truth, scores, names, resamples=0).overall
    weighted = weighted_figures(truth, scores, np.ones((1, len(truth))))
    for name in OVERALL:
        assert overall[name] == pytest.approx(weighted[name][0]), name
    predicted = scores.argmax(axis=1)
    assert overall["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, predicted)
    )
    if classes > 2:
        area = sklearn_metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
        assert overall["auroc_macro"] == pytest.approx(area)


def test_weights_count_images_as_often_as_scikit_learns_do():
    truth, scores = predictions()
    scores = scores.round(1)
    scores /= scores.sum(axis=1, keepdims=True)
    weights = np.random.default_rng(1).integers(0, 4, size=(2, len(truth))).astype(float)
    figures = weighted_figures(truth, scores, weights)
    predicted = scores.argmax(axis=1)
    for row, weight in enumerate(weights):
        options = {"sample_weight": weight}
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(truth, predicted, **options),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(
                truth, predicted, **options
            ),
            "f1_macro": sklearn_metrics.f1_score(truth, predicted, average="macro", **options),
            "f1_weighted": sklearn_metrics.f1_score(
                truth, predicted, average="weighted", **options
            ),
            "precision_macro": sklearn_metrics.precision_score(
                truth, predicted, average="macro", **options
            ),
            "cohen_kappa": sklearn_metrics.cohen_kappa_score(truth, predicted, **options),
            "log_loss": sklearn_metrics.log_loss(truth, scores, **options),
            "auroc_macro": np.mean(
                [
                    sklearn_metrics.roc_auc_score(truth == k, scores[:, k], **options)
                    for k in range(3)
                ]
            ),
        }
        for name, value in expected.items():
            assert figures[name][row] == pytest.approx(value), name


def test_intervals_hold_the_estimate_and_narrow_with_more_images():
    widths = []
    for images in (100, 2000):
        truth, scores = predictions(images)
        judgement = judge(truth, scores, NAMES, resamples=300)
        for name in OVERALL:
            low, high = judgement.intervals[name]
            assert low <= high
        low, high = judgement.intervals["accuracy"]
        assert low <= judgement.overall["accuracy"] <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_interval_of_the_accuracy_is_that_of_a_binomial():
    truth = np.zeros(1000, dtype=int)
    truth[:500] = 1
    scores = np.eye(2)[np.where(np.arange(1000) % 10 == 0, 1 - truth, truth)]
    low, high = judge(truth, scores, ("a", "b"), resamples=2000).intervals["accuracy"]
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=0.003)


def test_patients_are_drawn_whole():
    groups = ["p1", "p1", "", "p2", "p2", "p2"]
    weights = bootstrap_weights(6, groups, 50, seed=0)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 3], weights[:, 5])
    assert not np.array_equal(weights[:, 2], weights[:, 0])
    # Three units are drawn three times
    assert np.array_equal(weights[:, [0, 2, 3]].sum(axis=1), np.full(50, 3.0))


def test_same_seed_gives_the_same_intervals():
    truth, scores = predictions()
    first, second = (judge(truth, scores, NAMES, resamples=50, seed=3) for _ in range(2))
    assert first == second


def test_absent_class_is_named_and_left_out():
    truth, scores = predictions()
    truth = np.where(truth == 2, 0, truth)
    judgement = judge(truth, scores, NAMES, resamples=10)
    assert judgement.per_class["monocyte"]["recall"] is None
    assert judgement.per_class["monocyte"]["auroc"] is None
    assert "no images of monocyte" in judgement.notes[0]
    assert judgement.overall["auroc_macro"] is not None


def test_one_class_alone_has_no_auroc():
    judgement = judge([0, 0], [[0.9, 0.1], [0.8, 0.2]], ("a", "b"), resamples=10)
    assert judgement.overall["auroc_macro"] is None
    assert judgement.overall["cohen_kappa"] is None
    assert any("AUROC and Cohen's kappa are undefined" in note for note in judgement.notes)


def test_perfect_confidence_has_no_calibration_error():
    truth = np.array([0, 1, 2])
    assert expected_calibration_error(truth, np.eye(3)) == 0


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], np.zeros((0, 3)), "N from 1"),
        ([0], [[0.5, 0.5]], r"\(N, 3\)"),
        ([3], [[1.0, 0.0, 0.0]], "labels from 3 to 3 for 3 classes"),
        ([0], [[2.0, 1.0, 0.0]], "image 0 are"),
        ([0, 0], [[1.0, 0.0, 0.0], [float("nan"), 0.0, 0.0]], "image 1 are"),
    ],
)
def test_bad_arrays_are_errors(labels, scores, message):
    with pytest.raises(DataError, match=message):
        judge(labels, scores, NAMES)
