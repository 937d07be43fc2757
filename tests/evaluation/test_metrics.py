import json
import math
import re

import numpy as np
import pytest

from wbcnets.errors import DataError
from wbcnets.evaluation.metrics import compute_metrics
from wbcnets.evaluation.weighted_metrics import weighted_metrics

NAMES = ("basophil", "eosinophil", "monocyte")


def predictions(images=200, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(classes, size=images)
    scores = generator.dirichlet(np.ones(classes), size=images) + 0.4 * np.eye(classes)[truth]
    return truth, scores / scores.sum(axis=1, keepdims=True)


def test_hand_worked_numbers():
    # Two of class a, one taken for b; one of class b, right. Confidences 0.9, 0.6, 0.8.
    scores = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
    metrics = compute_metrics([0, 0, 1], scores, ("a", "b"), resamples=0)
    overall = metrics.overall
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
    assert metrics.per_class["a"]["recall"] == pytest.approx(1 / 2)
    assert metrics.per_class["b"]["specificity"] == pytest.approx(1 / 2)
    assert metrics.per_class["a"]["support"] == 2


def test_point_estimates_give_every_image_the_weight_one():
    truth, scores = predictions()
    metrics = compute_metrics(truth, scores, NAMES, resamples=0)
    weighted = weighted_metrics(truth, scores, np.ones((1, len(truth))))
    assert metrics.overall == {name: values[0] for name, values in weighted.overall.items()}
    for index, class_name in enumerate(NAMES):
        row = {name: values[0, index] for name, values in weighted.per_class.items()}
        assert metrics.per_class[class_name] == {"support": (truth == index).sum(), **row}


def test_intervals_contain_the_estimate_and_narrow_with_more_images():
    widths = []
    for images in (100, 2000):
        truth, scores = predictions(images)
        metrics = compute_metrics(truth, scores, NAMES, resamples=300)
        for name in metrics.overall:
            low, high = metrics.intervals[name]
            assert low <= high
        low, high = metrics.intervals["accuracy"]
        assert low <= metrics.overall["accuracy"] <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_interval_of_the_accuracy_is_that_of_a_binomial():
    truth = np.zeros(1000, dtype=int)
    truth[:500] = 1
    scores = np.eye(2)[np.where(np.arange(1000) % 10 == 0, 1 - truth, truth)]
    low, high = compute_metrics(truth, scores, ("a", "b"), resamples=2000).intervals["accuracy"]
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=0.003)


def test_same_seed_gives_the_same_intervals():
    truth, scores = predictions()
    first, second = (compute_metrics(truth, scores, NAMES, resamples=50, seed=3) for _ in range(2))
    assert first == second


def test_absent_class_is_named_and_left_out():
    truth, scores = predictions()
    truth = np.where(truth == 2, 0, truth)
    metrics = compute_metrics(truth, scores, NAMES, resamples=10)
    assert metrics.per_class["monocyte"]["recall"] is None
    assert metrics.per_class["monocyte"]["auroc"] is None
    assert "no images of monocyte" in metrics.notes[0]
    assert metrics.overall["auroc_macro"] is not None


def test_one_class_alone_has_no_auroc():
    metrics = compute_metrics([0, 0], [[0.9, 0.1], [0.2, 0.8]], ("a", "b"), resamples=10)
    assert metrics.overall["auroc_macro"] is None
    assert metrics.overall["cohen_kappa"] is None
    assert any("AUROC and Cohen's kappa are undefined" in note for note in metrics.notes)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], np.zeros((0, 3)), "N of 1 or more"),
        ([0], [[0.5, 0.5]], r"\(N, 3\)"),
        ([3], [[1.0, 0.0, 0.0]], "labels are 3 to 3, but 3 classes have labels 0 to 2"),
        ([0, 0], [[1.0, 0.0, 0.0], [0.5, 0.3, 0.0]], "image 1 are"),
        ([0], [[2.0, 1.0, 0.0]], "image 0 are"),
        ([0, 0], [[1.0, 0.0, 0.0], [-0.5, 1.0, 0.5]], "image 1 are"),
        ([0, 0], [[1.0, 0.0, 0.0], [float("nan"), 0.0, 0.0]], "image 1 are"),
    ],
)
def test_bad_arrays_are_errors(labels, scores, message):
    with pytest.raises(DataError, match=message):
        compute_metrics(labels, scores, NAMES)


def test_each_class_has_intervals_that_contain_its_metrics():
    truth, scores = predictions(400)
    metrics = compute_metrics(truth, scores, NAMES, resamples=200)
    for class_name in NAMES:
        for name in ("precision", "recall", "f1", "specificity", "auroc"):
            low, high = metrics.per_class_intervals[class_name][name]
            assert low < metrics.per_class[class_name][name] < high
    content = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert content["per_class_intervals"]["monocyte"]["recall"] == pytest.approx(
        metrics.per_class_intervals["monocyte"]["recall"]
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
    patient_of = np.repeat(np.arange(10), 100)
    truth = generator.integers(2, size=1000)
    right = generator.uniform(size=1000) < patients[patient_of]
    scores = np.eye(2)[np.where(right, truth, 1 - truth)]
    groups = [f"patient {patient}" for patient in patient_of]
    by_image = compute_metrics(truth, scores, ("a", "b"), resamples=200)
    by_patient = compute_metrics(truth, scores, ("a", "b"), groups=groups, resamples=200)
    assert by_patient.bootstrap["unit"] == "group"
    assert by_patient.bootstrap["units"] == 10
    widths = [np.ptp(j.intervals["accuracy"]) for j in (by_image, by_patient)]
    assert widths[1] > 2 * widths[0]


def test_one_patient_alone_has_no_intervals():
    truth, scores = predictions(20)
    metrics = compute_metrics(truth, scores, NAMES, groups=["p"] * 20, resamples=20)
    assert metrics.intervals == metrics.per_class_intervals == metrics.bootstrap == {}
    assert any("no intervals" in note for note in metrics.notes)


def test_class_that_is_never_predicted_has_no_precision_and_says_so():
    metrics = compute_metrics([0, 1], [[0.9, 0.1], [0.8, 0.2]], ("a", "b"), resamples=0)
    assert metrics.per_class["b"]["precision"] is None
    assert metrics.per_class["b"]["f1"] == 0
    assert metrics.overall["precision_macro"] == pytest.approx((1 / 2 + 0) / 2)
    assert any("never predicted: b" in note for note in metrics.notes)


def test_rare_class_says_how_many_resamples_are_without_it():
    truth, scores = predictions(50)
    truth = np.array([2, *np.where(truth[1:] == 2, 0, truth[1:])])
    metrics = compute_metrics(truth, scores, NAMES, resamples=200)
    (note,) = [note for note in metrics.notes if "resamples without" in note]
    missing = int(note.split("monocyte (")[1].split(")")[0])
    # An image is missing in (1 - 1/50)^50 = 36% of the resamples
    assert 50 < missing < 100
    assert set(metrics.per_class_intervals["monocyte"]["recall"]) <= {0.0, 1.0}


def test_model_of_one_class_has_metrics():
    metrics = compute_metrics([0, 0], [[1.0], [1.0]], ("a",), resamples=10)
    assert metrics.overall["accuracy"] == 1
    assert metrics.overall["log_loss"] == 0
    assert metrics.overall["auroc_macro"] is metrics.overall["specificity_macro"] is None


def test_class_that_is_predicted_without_images_counts_in_macro_means_and_says_so():
    scores = np.eye(3)[[0, 1, 2]]
    metrics = compute_metrics([0, 1, 1], scores, NAMES, resamples=0)
    assert metrics.overall["recall_macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metrics.overall["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert any("predicted, but without images: monocyte" in note for note in metrics.notes)


def test_nothing_is_noted_where_every_metric_is_defined():
    for classes in (2, 3):
        truth, scores = predictions(400, classes)
        metrics = compute_metrics(truth, scores, NAMES[:classes], resamples=50)
        assert metrics.notes == ()


def test_two_patients_have_intervals():
    truth, scores = predictions(40)
    metrics = compute_metrics(truth, scores, NAMES, groups=["p", "q"] * 20, resamples=20)
    assert metrics.bootstrap["units"] == 2
    assert set(metrics.intervals) == set(metrics.overall)
    assert not any("no intervals" in note for note in metrics.notes)


def test_defaults_are_those_of_a_paper():
    metrics = compute_metrics(*predictions(20), NAMES)
    expected = {"resamples": 1000, "confidence": 0.95, "seed": 0, "unit": "image", "units": 20}
    assert metrics.bootstrap == expected


def test_classes_without_images_and_predictions_are_listed_once():
    names = (*NAMES, "lymphocyte", "neutrophil")
    truth, scores = predictions(60)
    scores = np.pad(scores, [(0, 0), (0, 2)])
    metrics = compute_metrics(truth, scores, names, resamples=0)
    (note,) = metrics.notes
    assert note.startswith("no images of lymphocyte, neutrophil: ")


def test_rare_classes_are_listed_with_their_missing_resamples():
    scores = np.eye(3)[[0] * 48 + [1, 2]]
    metrics = compute_metrics(scores.argmax(axis=1), scores, NAMES, resamples=200)
    (note,) = metrics.notes
    assert re.search(r": eosinophil \(\d+\), monocyte \(\d+\)$", note)


def test_probabilities_rounded_in_a_table_are_normalized():
    truth, scores = predictions()
    exact = compute_metrics(truth, scores, NAMES, resamples=0).overall
    rounded = compute_metrics(truth, scores * 0.9995, NAMES, resamples=0).overall
    assert rounded == pytest.approx(exact, rel=1e-12)


def test_narrow_types_are_computed_in_wide_ones():
    truth, scores = predictions(300, classes=20)
    names = [f"class {index}" for index in range(20)]
    narrow = compute_metrics(
        truth.astype(np.uint8), scores.astype(np.float32), names, resamples=0
    ).overall
    wide = compute_metrics(truth, scores.astype(np.float32).astype(float), names, resamples=0)
    assert narrow == pytest.approx(wide.overall, rel=1e-12)
