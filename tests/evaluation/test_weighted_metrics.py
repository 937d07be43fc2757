import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from wbcnets.evaluation.weighted_metrics import (
    calibration_bins,
    roc_curve,
    weighted_calibration_error,
    weighted_metrics,
)


def predictions(images=150, classes=3, seed=0, ties=True):
    """Random probabilities; with ties in steps of about a tenth, so that many are equal."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=images)
    scores = generator.dirichlet(np.ones(classes), size=images) + 0.4 * np.eye(classes)[labels]
    if ties:
        scores = (scores / scores.sum(axis=1, keepdims=True)).round(1) + 0.01
    return labels, scores / scores.sum(axis=1, keepdims=True)


def without_class(removed, labels, scores):
    """The same images, none of which has the removed class; it is still predicted."""
    return np.where(labels == removed, 0, labels), scores


def never_predicted(removed, labels, scores):
    scores = scores.copy()
    scores[:, removed] = 0
    return labels, scores / scores.sum(axis=1, keepdims=True)


def scikit_learn(labels, scores, weight=None):
    """All metrics as scikit-learn computes them, NaN where undefined."""
    classes = range(scores.shape[1])
    drawn = np.ones(len(labels)) if weight is None else weight
    predicted, true = scores.argmax(axis=1), np.unique(labels[drawn > 0])
    mentioned = sorted({*labels[drawn > 0], *predicted[drawn > 0]})
    options = {"sample_weight": weight}
    overall = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted, **options),
        "balanced_accuracy": sklearn_metrics.recall_score(
            labels, predicted, labels=true, average="macro", **options
        ),
        "cohen_kappa": sklearn_metrics.cohen_kappa_score(labels, predicted, **options),
        "log_loss": sklearn_metrics.log_loss(labels, scores, labels=[*classes], **options),
    }
    for average in ("macro", "weighted"):
        values = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=mentioned, average=average, zero_division=0, **options
        )
        for name, value in zip(("precision", "recall", "f1"), values):
            overall[f"{name}_{average}"] = value
    values = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=[*classes], zero_division=np.nan, **options
    )
    per_class = dict(zip(("precision", "recall", "f1"), values))
    per_class["specificity"] = [
        sklearn_metrics.recall_score(labels != k, predicted != k, zero_division=np.nan, **options)
        for k in classes
    ]
    per_class["auroc"] = [
        sklearn_metrics.roc_auc_score(labels == k, scores[:, k], **options) if k in true else np.nan
        for k in classes
    ]
    overall["auroc_macro"] = np.nanmean(per_class["auroc"])
    overall["specificity_macro"] = np.nanmean(per_class["specificity"])
    return overall, per_class


def assert_equals_scikit_learn(labels, scores, weights):
    metrics = weighted_metrics(labels, scores, weights)
    for row, weight in enumerate(weights):
        overall, per_class = scikit_learn(labels, scores, weight)
        assert {*overall, "expected_calibration_error"} == set(metrics.overall)
        for name, value in overall.items():
            np.testing.assert_allclose(metrics.overall[name][row], value, 1e-12, err_msg=name)
        assert set(per_class) == set(metrics.per_class)
        for name, value in per_class.items():
            np.testing.assert_allclose(metrics.per_class[name][row], value, 1e-12, err_msg=name)


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("ties", [False, True])
def test_point_estimates_are_those_of_scikit_learn(classes, ties):
    labels, scores = predictions(classes=classes, ties=ties)
    assert_equals_scikit_learn(labels, scores, np.ones((1, len(labels))))


def unmentioned(removed, labels, scores):
    """The same images; the removed class is neither true nor predicted."""
    return never_predicted(removed, *without_class(removed, labels, scores))


@pytest.mark.parametrize("change", [without_class, never_predicted, unmentioned])
def test_undefined_metrics_are_counted_as_in_scikit_learn(change):
    labels, scores = change(2, *predictions(classes=4))
    assert_equals_scikit_learn(labels, scores, np.ones((1, len(labels))))


def test_weights_count_images_as_often_as_scikit_learn_does():
    labels, scores = predictions()
    weights = np.random.default_rng(1).integers(0, 4, size=(3, len(labels))).astype(float)
    assert_equals_scikit_learn(labels, scores, weights)


def test_macro_auroc_is_one_against_the_rest():
    labels, scores = predictions()
    area = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    metrics = weighted_metrics(labels, scores, np.ones((1, len(labels))))
    assert metrics.overall["auroc_macro"][0] == pytest.approx(area)


def test_weighted_metrics_are_those_of_repeated_images():
    labels, scores = predictions()
    weight = np.random.default_rng(2).integers(0, 4, size=len(labels))
    drawn = weighted_metrics(labels, scores, weight[None].astype(float))
    labels, scores = np.repeat(labels, weight), np.repeat(scores, weight, axis=0)
    repeated = weighted_metrics(labels, scores, np.ones((1, len(labels))))
    for name, value in repeated.overall.items():
        np.testing.assert_allclose(drawn.overall[name], value, err_msg=name)
    for name, value in repeated.per_class.items():
        np.testing.assert_allclose(drawn.per_class[name], value, err_msg=name)


def test_specificity_worked_by_hand():
    # Of a: 1 of 2 others is not called a. Of b: 2 of 3. Of c: 3 of 3.
    scores = np.eye(3)[[0, 1, 0, 2]]
    metrics = weighted_metrics(np.array([0, 0, 1, 2]), scores, np.ones((1, 4)))
    np.testing.assert_allclose(metrics.per_class["specificity"], [[1 / 2, 2 / 3, 1]])
    assert metrics.overall["specificity_macro"][0] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_undefined_metrics_are_nan():
    # The second resample has images of the first class only
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    metrics = weighted_metrics(np.array([0, 1]), scores, np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert metrics.per_class["auroc"][0].tolist() == [1, 1]
    assert np.isnan(metrics.per_class["auroc"][1]).all()
    assert np.isnan(metrics.overall["auroc_macro"][1])
    assert np.isnan(metrics.overall["cohen_kappa"][1])
    assert np.isnan(metrics.per_class["recall"][1]).tolist() == [False, True]
    assert metrics.overall["accuracy"].tolist() == [1, 1]
    # Of the second resample it is that of the other class, the only one with negatives
    assert metrics.overall["specificity_macro"].tolist() == [1, 1]


def test_kappa_of_one_true_class_is_undefined_whatever_is_predicted():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    # The first resample has images of both classes, the second of the first class only
    weights = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    metrics = weighted_metrics(np.array([0, 0, 1]), scores, weights)
    assert np.isnan(metrics.overall["cohen_kappa"]).tolist() == [False, True]


def test_balanced_accuracy_leaves_out_a_class_that_is_only_predicted():
    metrics = weighted_metrics(np.array([0, 1, 1]), np.eye(3)[[0, 1, 2]], np.ones((1, 3)))
    assert metrics.overall["balanced_accuracy"][0] == pytest.approx((1 + 1 / 2) / 2)
    assert metrics.overall["recall_macro"][0] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert np.isnan(metrics.per_class["recall"][0]).tolist() == [False, False, True]


@pytest.mark.parametrize("ties", [False, True])
def test_roc_curve_is_that_of_scikit_learn(ties):
    labels, scores = predictions(ties=ties)
    expected = sklearn_metrics.roc_curve(labels == 1, scores[:, 1], drop_intermediate=False)
    for rate, other in zip(roc_curve(labels == 1, scores[:, 1]), expected):
        np.testing.assert_allclose(rate, other)


def test_perfect_confidence_has_no_calibration_error():
    assert weighted_calibration_error(np.arange(3), np.eye(3), np.ones((1, 3))).tolist() == [0]


def test_bins_include_their_upper_ends():
    confidence = np.array([1 / 20, 1 / 15 + 1e-9, 0.5, 0.6, 1.0])
    # (0, 0.0667], (0.0667, 0.1333], (0.4667, 0.5333], (0.5333, 0.6], (0.9333, 1]
    assert calibration_bins(confidence).tolist() == [0, 1, 7, 8, 14]


def test_rounding_leads_to_no_bin_outside():
    assert calibration_bins(np.array([0.0, 1 + 1e-12])).tolist() == [0, 14]
