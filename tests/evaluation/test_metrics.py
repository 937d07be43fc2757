import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from wbcnets.errors import DataError
from wbcnets.evaluation.bootstrap import weighted_metrics
from wbcnets.evaluation.metrics import OVERALL, PER_CLASS, expected_calibration_error, judge

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
    judgement = judge(truth, scores, names, resamples=0)
    overall = judgement.overall
    weighted = weighted_metrics(truth, scores, np.ones((1, len(truth))))
    assert tuple(overall) == OVERALL
    for name in OVERALL:
        assert overall[name] == pytest.approx(weighted.overall[name][0]), name
    for name in PER_CLASS:
        expected = [judgement.per_class[class_name][name] for class_name in names]
        np.testing.assert_allclose(weighted.per_class[name][0], expected, rtol=1e-12)
    predicted = scores.argmax(axis=1)
    assert overall["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, predicted)
    )
    if classes > 2:
        area = sklearn_metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
        assert overall["auroc_macro"] == pytest.approx(area)


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
    judgement = judge([0, 0], [[0.9, 0.1], [0.2, 0.8]], ("a", "b"), resamples=10)
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
        ([0, 0], [[1.0, 0.0, 0.0], [-0.5, 1.0, 0.5]], "image 1 are"),
        ([0, 0], [[1.0, 0.0, 0.0], [float("nan"), 0.0, 0.0]], "image 1 are"),
    ],
)
def test_bad_arrays_are_errors(labels, scores, message):
    with pytest.raises(DataError, match=message):
        judge(labels, scores, NAMES)


def test_each_class_has_intervals_that_hold_its_figures():
    truth, scores = predictions(400)
    judgement = judge(truth, scores, NAMES, resamples=200)
    for class_name in NAMES:
        for name in PER_CLASS:
            low, high = judgement.class_intervals[class_name][name]
            assert low < judgement.per_class[class_name][name] < high
    content = json.loads(json.dumps(judgement.as_dict(), allow_nan=False))
    assert content["per_class_intervals"]["monocyte"]["recall"] == pytest.approx(
        judgement.class_intervals["monocyte"]["recall"]
    )
    assert content["bootstrap"] == {
        "resamples": 200,
        "confidence": 0.95,
        "seed": 0,
        "unit": "image",
        "units": 400,
    }


def test_intervals_of_few_patients_are_wider_than_those_of_their_many_images():
    generator = np.random.default_rng(0)
    patients = generator.uniform(0.5, 1, size=10)
    places = np.repeat(np.arange(10), 100)
    truth = generator.integers(2, size=1000)
    right = generator.uniform(size=1000) < patients[places]
    scores = np.eye(2)[np.where(right, truth, 1 - truth)]
    groups = [f"patient {place}" for place in places]
    by_image = judge(truth, scores, ("a", "b"), resamples=200)
    by_patient = judge(truth, scores, ("a", "b"), groups=groups, resamples=200)
    assert by_patient.bootstrap["unit"] == "group"
    assert by_patient.bootstrap["units"] == 10
    widths = [np.ptp(j.intervals["accuracy"]) for j in (by_image, by_patient)]
    assert widths[1] > 2 * widths[0]


def test_one_patient_alone_has_no_intervals():
    truth, scores = predictions(20)
    judgement = judge(truth, scores, NAMES, groups=["p"] * 20, resamples=20)
    assert judgement.intervals == judgement.class_intervals == judgement.bootstrap == {}
    assert any("no intervals" in note for note in judgement.notes)


def test_class_that_is_never_predicted_has_no_precision_and_says_so():
    judgement = judge([0, 1], [[0.9, 0.1], [0.8, 0.2]], ("a", "b"), resamples=0)
    assert judgement.per_class["b"]["precision"] is None
    assert judgement.per_class["b"]["f1"] == 0
    assert judgement.overall["precision_macro"] == pytest.approx((1 / 2 + 0) / 2)
    assert any("never predicted: b" in note for note in judgement.notes)


def test_rare_class_says_how_many_resamples_are_without_it():
    truth, scores = predictions(50)
    truth = np.array([2, *np.where(truth[1:] == 2, 0, truth[1:])])
    judgement = judge(truth, scores, NAMES, resamples=200)
    (note,) = [note for note in judgement.notes if "resamples without" in note]
    missing = int(note.split("monocyte (")[1].split(")")[0])
    # An image is missing in (1 - 1/50)^50 = 36% of the resamples
    assert 50 < missing < 100
    assert set(judgement.class_intervals["monocyte"]["recall"]) <= {0.0, 1.0}


def test_model_of_one_class_is_judged_without_an_error():
    judgement = judge([0, 0], [[1.0], [1.0]], ("a",), resamples=10)
    assert judgement.overall["accuracy"] == 1
    assert judgement.overall["log_loss"] == 0
    assert judgement.overall["auroc_macro"] is judgement.overall["specificity_macro"] is None


def test_class_that_is_predicted_without_images_counts_in_macro_means_and_says_so():
    scores = np.eye(3)[[0, 1, 2]]
    judgement = judge([0, 1, 1], scores, NAMES, resamples=0)
    assert judgement.overall["recall_macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert judgement.overall["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert any("predicted without any image: monocyte" in note for note in judgement.notes)
