"""Scores of detections that mean something: calibrated, with a threshold per class.

A detection is correct if it is matched with an object of its class. From the scores of a validation
set's detections, and whether they are correct, follow

- a calibration: the logit ``z`` of a score becomes ``slope * z + offset``, so that of detections
  with the score 0.8, 80% are correct (Platt, "Probabilistic outputs for support vector machines",
  1999);
- an operating threshold: the lowest score to report, at which the F1 score is highest, or a wanted
  precision or recall is reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from wbcnets.errors import ConfigError, DataError, explain_missing
from wbcnets.evaluation.weighted_metrics import confidence_gap

with explain_missing():
    from scipy.optimize import minimize
    from scipy.special import expit, logit

Array = npt.NDArray[np.float64]
Goal = Literal["f1", "precision", "recall"]
GOALS: tuple[Goal, ...] = ("f1", "precision", "recall")
# Of the many detections with scores near zero nobody looks at
LEAST_SCORE = 0.05
# Fewer correct or wrong detections say nothing about slope and offset
_FEWEST = 10
_MOST_LOGIT = 15.0
# Of the slope's logarithm and of the offset
_BOUNDS = [(-2.0, 2.0), (-10.0, 10.0)]


class ScoredDetections(NamedTuple):
    """The detections of one class in a validation set.

    Args:
        scores: (N,) in [0, 1].
        correct: (N,), whether each is matched with an object.
        images: (N,), the index of its image.
        objects: (I,), the annotated objects of the class in each image.
    """

    scores: Array
    correct: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int64]


class Calibration(NamedTuple):
    """The line that logits of scores go through."""

    slope: float = 1.0
    offset: float = 0.0

    def apply(self, scores: Array) -> Array:
        """Returns calibrated scores, (N,) -> (N,)."""
        return np.asarray(expit(self.slope * _logit(scores) + self.offset))


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it gives on the set that chose it.

    Args:
        threshold: The lowest score that is reported.
        precision: Share of reported detections that are correct.
        recall: Share of objects that are found.
        count_error: Sum over images of the distance between found and annotated numbers, over the
            number of objects.
    """

    threshold: float
    precision: float
    recall: float
    count_error: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def fit_calibration(found: ScoredDetections) -> Calibration:
    """Returns the calibration of the highest likelihood; none for too few detections.

    As Platt advises, a correct detection counts as one only almost, so that a class without
    mistakes does not get certain scores. The slope is above zero: the order of the scores stays.
    """
    seen = found.scores >= LEAST_SCORE / 5
    correct, logits = found.correct[seen], _logit(found.scores[seen])
    if min(correct.sum(), (~correct).sum()) < _FEWEST:
        return Calibration()

    hits, misses = correct.sum(), (~correct).sum()
    wanted = np.where(correct, (hits + 1) / (hits + 2), 1 / (misses + 2))

    def loss(values: Array) -> tuple[float, Array]:
        slope, offset = np.exp(values[0]), values[1]
        z = slope * logits + offset
        residual = expit(z) - wanted
        value = np.logaddexp(0, z).sum() - (z * wanted).sum()
        return value / len(z), np.array([(residual * logits).sum() * slope, residual.sum()]) / len(
            z
        )

    best = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=_BOUNDS)
    return Calibration(float(np.exp(best.x[0])), float(best.x[1]))


def choose_threshold(
    found: ScoredDetections, goal: Goal = "f1", at_least: float = 0.0
) -> OperatingPoint:
    """Returns the operating point of a class.

    Args:
        found: The detections of a validation set, with the scores that are reported.
        goal: "f1" for the highest F1 score; "precision" or "recall" for the highest recall or
            precision at which the other is ``at_least`` a number.
        at_least: The wanted precision or recall, in (0, 1].

    Raises:
        ConfigError: if the goal is unknown, or the wanted number is not in (0, 1].
        DataError: if the set has no object of the class, or no threshold reaches the goal.
    """
    if goal not in GOALS or (goal != "f1" and not 0 < at_least <= 1):
        raise ConfigError(f"goal {goal!r} with {at_least}: use one of {GOALS}, and (0, 1]")
    total = int(found.objects.sum())
    if not total:
        raise DataError("the validation set has no object of this class")
    if not len(found.scores):
        raise DataError("nothing of this class was detected on the validation set")
    scores = np.sort(found.scores)[::-1]
    hits = np.cumsum(found.correct[np.argsort(-found.scores, kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / total
    last = np.append(scores[1:] < scores[:-1], True)
    reached = (
        last & {"f1": last, "precision": precision >= at_least, "recall": recall >= at_least}[goal]
    )
    if not reached.any():
        raise DataError(f"no threshold reaches a {goal} of {at_least:g} on the validation set")
    value = {
        "f1": 2 * precision * recall / np.maximum(precision + recall, 1e-12),
        "precision": recall,
        "recall": precision,
    }[goal]
    index = int(np.where(reached, value, -1.0).argmax())
    below = scores[index + 1] if index + 1 < len(scores) else 0.0
    # Between two scores, so that rounding does not lose the detection
    return measure(found, float((scores[index] + below) / 2))


def measure(found: ScoredDetections, threshold: float) -> OperatingPoint:
    """Returns precision, recall and count error of a threshold."""
    kept = found.scores >= threshold
    hits, total = int(found.correct[kept].sum()), max(1, int(found.objects.sum()))
    counts = np.bincount(found.images[kept], minlength=len(found.objects))
    return OperatingPoint(
        threshold=threshold,
        precision=hits / max(1, int(kept.sum())),
        recall=hits / total,
        count_error=float(np.abs(counts - found.objects).sum() / total),
    )


def detection_calibration_error(classes: Sequence[ScoredDetections]) -> float:
    """Returns D-ECE: the mean distance between score and share of correct detections.

    Küppers et al., "Multivariate Confidence Calibration for Object Detection", CVPR workshops 2020,
    equation 4 with bins of the score alone, over detections of all classes with a score of at
    least ``LEAST_SCORE``; NaN without any.
    """
    scores = np.concatenate([found.scores for found in classes])
    correct = np.concatenate([found.correct for found in classes])
    seen = scores >= LEAST_SCORE
    if not seen.any():
        return float("nan")
    return float(confidence_gap(correct[seen], scores[seen], np.ones((1, int(seen.sum()))))[0])


def _logit(scores: Array) -> Array:
    return np.clip(logit(np.clip(scores, 0, 1)), -_MOST_LOGIT, _MOST_LOGIT)
