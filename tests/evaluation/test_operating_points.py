import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.operating_points import (
    Calibration,
    OperatingPoint,
    ScoredDetections,
    choose_threshold,
    detection_calibration_error,
    fit_calibration,
    measure,
)


def detections(scores, correct, images=None, objects=(4,)):
    return ScoredDetections(
        np.array(scores, dtype=np.float64),
        np.array(correct, dtype=bool),
        np.array([0] * len(scores) if images is None else images, dtype=np.int64),
        np.array(objects, dtype=np.int64),
    )


# Precision 1, 1/2, 2/3, 3/4, 3/5 and recall 1/4, 1/4, 1/2, 3/4, 3/4; F1 is 0.75 at the fourth
FOUND = detections([0.5, 0.9, 0.8, 0.7, 0.6], [False, True, False, True, True])


@pytest.mark.parametrize(
    ("goal", "at_least", "threshold"),
    [
        ("f1", 0.0, 0.55),
        ("precision", 0.7, 0.55),
        ("precision", 0.75, 0.55),
        ("precision", 0.76, 0.85),
        ("precision", 1.0, 0.85),
        ("recall", 0.25, 0.85),
        ("recall", 0.5, 0.55),
        ("recall", 0.75, 0.55),
    ],
)
def test_thresholds_by_hand(goal, at_least, threshold):
    point = choose_threshold(FOUND, goal, at_least)
    assert point.threshold == pytest.approx(threshold)
    assert point == measure(FOUND, point.threshold)


def test_an_operating_point_by_hand():
    found = detections([0.9, 0.8, 0.7, 0.2], [True, False, True, True], [0, 0, 2, 1], (2, 1, 0))
    point = measure(found, 0.5)
    # Found 2, 0 and 1 of 2, 1 and 0 objects
    assert point == OperatingPoint(0.5, precision=2 / 3, recall=2 / 3, count_error=2 / 3)
    assert point.f1 == pytest.approx(2 / 3)
    assert measure(found, 0.7).recall == point.recall  # a score at the threshold is reported
    nothing = measure(found, 1.0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)
    assert nothing.count_error == 1


def test_equal_scores_are_reported_together():
    found = detections([0.9, 0.5, 0.5, 0.5], [True, False, False, True], objects=(2,))
    assert choose_threshold(found).threshold == pytest.approx(0.7)
    assert choose_threshold(found, "recall", 0.6).threshold == pytest.approx(0.25)
    assert choose_threshold(found, "recall", 0.6).precision == 0.5


def test_goals_that_cannot_be_reached():
    with pytest.raises(DataError, match=r"no threshold reaches a recall of 0\.8"):
        choose_threshold(FOUND, "recall", 0.8)
    with pytest.raises(DataError, match="no object of this class"):
        choose_threshold(FOUND._replace(objects=np.zeros(3, np.int64)))
    for goal in ("f1", "recall"):
        with pytest.raises(DataError, match="nothing of this class was detected"):
            choose_threshold(detections([], []), goal, 0.5)


@pytest.mark.parametrize(("goal", "at_least"), [("f2", 0.5), ("recall", 0.0), ("precision", 1.1)])
def test_goals_that_do_not_exist(goal, at_least):
    with pytest.raises(ConfigError, match=rf"goal '{goal}' with {at_least}"):
        choose_threshold(FOUND, goal, at_least)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_has_a_higher_f1(pairs):
    scores, correct = zip(*((score / 8, hit) for score, hit in pairs))
    found = detections(scores, correct, objects=(sum(correct) + 1,))
    best = max(measure(found, threshold).f1 for threshold in (*scores, 0.0, 2.0))
    assert choose_threshold(found).f1 == pytest.approx(best)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (1.8, -0.7), (0.5, 1.5)])
def test_a_known_calibration_is_recovered(slope, offset):
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, 40_000)
    found = detections(expit(logits), random.random(40_000) < expit(slope * logits + offset))
    fitted = fit_calibration(found)
    assert fitted == pytest.approx((slope, offset), abs=0.06)
    calibrated = found._replace(scores=fitted.apply(found.scores))
    assert detection_calibration_error([calibrated]) < 0.015
    assert fit_calibration(calibrated) == pytest.approx((1, 0), abs=0.06)


def test_scores_that_say_the_opposite_keep_their_order():
    scores = np.linspace(0.1, 0.9, 200)
    fitted = fit_calibration(detections(scores, scores < 0.5))
    assert fitted.slope > 0
    assert (np.diff(fitted.apply(scores)) > 0).all()


@pytest.mark.parametrize("correct", [9, 191])
def test_few_examples_calibrate_nothing(correct):
    found = detections(np.linspace(0.1, 0.9, 200), np.arange(200) < correct)
    assert fit_calibration(found) == Calibration(1.0, 0.0)


def test_scores_near_zero_do_not_count():
    found = detections([0.001] * 1000 + [0.8] * 40, [False] * 1000 + [True] * 20 + [False] * 20)
    assert fit_calibration(found).apply(np.array([0.8]))[0] == pytest.approx(0.5, abs=0.02)


def test_applying_a_calibration_by_hand():
    scores = np.array([0.0, 0.2, 0.5, 1.0])
    found = Calibration(2.0, -1.0).apply(scores)
    assert found[1] == pytest.approx(1 / (1 + np.exp(1) * 16))  # odds 1/4 become 1/16 and 1/e
    assert found[2] == pytest.approx(1 / (1 + np.e))
    assert (found[0], found[3]) == pytest.approx((0, 1), abs=1e-9)
    assert Calibration().apply(scores) == pytest.approx(scores, abs=1e-6)


def test_calibration_error_by_hand():
    first = detections([0.9, 0.9, 0.04], [True, False, True])
    second = detections([0.3], [False])
    # |2 * 0.9 - 1| of two, and 0.3 of one; the third score is too low to be looked at
    assert detection_calibration_error([first, second]) == pytest.approx((0.8 + 0.3) / 3)
    assert detection_calibration_error([detections([1.0] * 3, [True] * 3)]) == 0
    assert np.isnan(detection_calibration_error([detections([0.01], [True])]))
