import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from wbcnets.evaluation import bootstrap
from wbcnets.evaluation.bootstrap import (
    bootstrap_metrics,
    bootstrap_weights,
    calibration_bins,
    percentile_interval,
    weighted_metrics,
)


def predictions(images=150, classes=3, seed=0):
    """Scores in steps of about a tenth, so that many are equal."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(classes, size=images)
    scores = generator.dirichlet(np.ones(classes), size=images) + 0.4 * np.eye(classes)[truth]
    scores = (scores / scores.sum(axis=1, keepdims=True)).round(1) + 0.01
    return truth, scores / scores.sum(axis=1, keepdims=True)


def expected_figures(truth, scores, weight):
    predicted = scores.argmax(axis=1)
    options = {"sample_weight": weight}
    figures = {
        "accuracy": sklearn_metrics.accuracy_score(truth, predicted, **options),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(truth, predicted, **options),
        "cohen_kappa": sklearn_metrics.cohen_kappa_score(truth, predicted, **options),
        "log_loss": sklearn_metrics.log_loss(truth, scores, **options),
    }
    for average in ("macro", "weighted"):
        values = sklearn_metrics.precision_recall_fscore_support(
            truth, predicted, average=average, **options
        )
        for name, value in zip(("precision", "recall", "f1"), values):
            figures[f"{name}_{average}"] = value
    return figures


def test_weights_count_images_as_often_as_scikit_learns_do():
    truth, scores = predictions()
    weights = np.random.default_rng(1).integers(0, 4, size=(3, len(truth))).astype(float)
    figures = weighted_metrics(truth, scores, weights)
    for row, weight in enumerate(weights):
        for name, value in expected_figures(truth, scores, weight).items():
            assert figures.overall[name][row] == pytest.approx(value), name
        areas = [
            sklearn_metrics.roc_auc_score(truth == k, scores[:, k], sample_weight=weight)
            for k in range(3)
        ]
        np.testing.assert_allclose(figures.per_class["auroc"][row], areas)
        assert figures.overall["auroc_macro"][row] == pytest.approx(np.mean(areas))
        recalls = sklearn_metrics.recall_score(
            truth, scores.argmax(axis=1), average=None, sample_weight=weight
        )
        np.testing.assert_allclose(figures.per_class["recall"][row], recalls)


def test_weighted_figures_are_those_of_repeated_images():
    truth, scores = predictions()
    weight = np.random.default_rng(2).integers(0, 4, size=len(truth))
    drawn = weighted_metrics(truth, scores, weight[None].astype(float))
    truth, scores = np.repeat(truth, weight), np.repeat(scores, weight, axis=0)
    repeated = weighted_metrics(truth, scores, np.ones((1, len(truth))))
    for name, value in repeated.overall.items():
        np.testing.assert_allclose(drawn.overall[name], value, err_msg=name)
    for name, value in repeated.per_class.items():
        np.testing.assert_allclose(drawn.per_class[name], value, err_msg=name)


def test_specificity_worked_by_hand():
    # Of a: 1 of 2 others is not called a. Of b: 2 of 3. Of c: 3 of 3.
    scores = np.eye(3)[[0, 1, 0, 2]]
    figures = weighted_metrics(np.array([0, 0, 1, 2]), scores, np.ones((1, 4)))
    np.testing.assert_allclose(figures.per_class["specificity"], [[1 / 2, 2 / 3, 1]])
    assert figures.overall["specificity_macro"][0] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_what_is_undefined_is_nan_and_not_a_number():
    # The second resample has images of the first class only
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    figures = weighted_metrics(np.array([0, 1]), scores, np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert figures.per_class["auroc"][0].tolist() == [1, 1]
    assert np.isnan(figures.per_class["auroc"][1]).all()
    assert np.isnan(figures.overall["auroc_macro"][1])
    assert np.isnan(figures.overall["cohen_kappa"][1])
    assert np.isnan(figures.per_class["recall"][1]).tolist() == [False, True]
    assert figures.overall["accuracy"].tolist() == [1, 1]


def test_class_that_is_only_predicted_is_none_of_the_balanced_accuracy():
    figures = weighted_metrics(np.array([0, 1, 1]), np.eye(3)[[0, 1, 2]], np.ones((1, 3)))
    assert figures.overall["balanced_accuracy"][0] == pytest.approx((1 + 1 / 2) / 2)
    assert figures.overall["recall_macro"][0] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert np.isnan(figures.per_class["recall"][0]).tolist() == [False, False, True]


def test_patients_are_drawn_whole():
    groups = ["p1", "p1", "", "p2", "p2", "p2"]
    weights = bootstrap_weights(6, groups, 50, seed=0)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 3], weights[:, 5])
    assert not np.array_equal(weights[:, 2], weights[:, 0])
    # Three units are drawn three times
    assert np.array_equal(weights[:, [0, 2, 3]].sum(axis=1), np.full(50, 3.0))


def test_images_without_groups_are_drawn_one_by_one():
    for groups in (None, ["", "", "", ""]):
        weights = bootstrap_weights(4, groups, 2000, seed=0)
        assert np.array_equal(weights.sum(axis=1), np.full(2000, 4.0))
        np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)


def test_parts_of_the_resamples_are_the_whole(monkeypatch):
    truth, scores = predictions()
    whole = bootstrap_metrics(truth, scores, None, 20, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7 * len(truth))
    parts = bootstrap_metrics(truth, scores, None, 20, seed=5)
    for name, values in whole.overall.items():
        assert values.shape == (20,)
        np.testing.assert_allclose(parts.overall[name], values, rtol=1e-12)
    for name, values in whole.per_class.items():
        assert values.shape == (20, 3)
        np.testing.assert_allclose(parts.per_class[name], values, rtol=1e-12)


def test_interval_is_of_the_defined_values():
    values = np.array([np.nan, *range(101)])
    assert percentile_interval(values, 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.array([np.nan, np.nan]), 0.9) is None


def test_bins_hold_their_upper_ends():
    confidence = np.array([1 / 15 + 1e-9, 0.5, 0.6, 1.0])
    scores = np.stack([confidence, np.zeros(4)], axis=1)
    # (0.4667, 0.5333], (0.5333, 0.6], (0.9333, 1]
    assert calibration_bins(scores).tolist() == [1, 7, 8, 14]
