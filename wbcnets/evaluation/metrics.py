"""Metrics of a classifier, over all classes and for each, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wbcnets.errors import DataError
from wbcnets.evaluation.bootstrap import bootstrap_metrics, percentile_interval, sampling_units
from wbcnets.evaluation.weighted_metrics import Array, Labels, WeightedMetrics, weighted_metrics

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassifierMetrics:
    """The metrics of one evaluation.

    Attributes:
        overall: Metric -> value over all classes; None if undefined.
        intervals: Metric -> lower and upper end.
        per_class: Class name -> metric -> value; "support" is the number of images.
        per_class_intervals: Class name -> metric -> lower and upper end.
        bootstrap: "resamples", "confidence", "seed", "unit" ("image" or "group") and "units", their
            number; empty without intervals.
        notes: Reasons why a metric is undefined or leaves out classes.
    """

    overall: dict[str, float | None]
    intervals: dict[str, Interval]
    per_class: dict[str, dict[str, float | None]]
    per_class_intervals: dict[str, dict[str, Interval]]
    bootstrap: dict[str, Any]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the same as plain dictionaries and tuples."""
        return asdict(self)


def compute_metrics(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ClassifierMetrics:
    """Returns the metrics of predictions, with bootstrap intervals.

    Args:
        labels: True classes, (N,) in [0, K - 1].
        probabilities: (N, K); each row sums to 1.
        class_names: K names.
        groups: Patient or slide of each image; images of a group are drawn together.
        resamples: Bootstrap resamples; 0 leaves out the intervals.
        confidence: Fraction of the resamples inside an interval.
        seed: Seeds the resamples.

    Raises:
        DataError: if there are no images, or the arrays do not match.
    """
    truth, scores = _check(labels, probabilities, class_names)
    support = np.bincount(truth, minlength=len(class_names))
    points = weighted_metrics(truth, scores, np.ones((1, len(truth))))
    overall = {name: _optional(values[0]) for name, values in points.overall.items()}
    per_class = {
        class_name: {"support": int(support[index])}
        | {name: _optional(values[0, index]) for name, values in points.per_class.items()}
        for index, class_name in enumerate(class_names)
    }
    notes = _explain_undefined(support, scores, class_names)
    units = sampling_units(len(truth), groups)
    count = int(units.max()) + 1
    if resamples and count < 2:
        notes.append("all images are one image or group: there are no intervals")
    if not resamples or count < 2:
        return ClassifierMetrics(overall, {}, per_class, {}, {}, tuple(notes))
    drawn = bootstrap_metrics(truth, scores, units, resamples, seed)
    notes += _explain_missing_resamples(drawn, support, class_names)
    unit = "group" if groups is not None and any(groups) else "image"
    bootstrap: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
    bootstrap |= {"unit": unit, "units": count}
    intervals = _intervals(overall, drawn.overall, confidence)
    per_class_intervals = {}
    for index, (class_name, values) in enumerate(per_class.items()):
        columns = {name: column[:, index] for name, column in drawn.per_class.items()}
        per_class_intervals[class_name] = _intervals(values, columns, confidence)
    return ClassifierMetrics(
        overall, intervals, per_class, per_class_intervals, bootstrap, tuple(notes)
    )


def _intervals(
    points: dict[str, float | None], drawn: dict[str, Array], confidence: float
) -> dict[str, Interval]:
    """Returns the intervals of the metrics that are defined."""
    return {
        name: interval
        for name, values in drawn.items()
        if points[name] is not None
        and (interval := percentile_interval(values, confidence)) is not None
    }


def _explain_undefined(
    support: npt.NDArray[np.int64], scores: Array, class_names: Sequence[str]
) -> list[str]:
    """Returns one sentence for each reason why metrics are undefined."""
    predicted = np.bincount(scores.argmax(axis=1), minlength=len(class_names))
    absent, never, foreign = (
        ", ".join(name for name, marked in zip(class_names, mask) if marked)
        for mask in (
            support == 0,
            (support > 0) & (predicted == 0),
            (support == 0) & (predicted > 0),
        )
    )
    notes = []
    if absent:
        notes.append(
            f"no images of {absent}: recall and AUROC of such a class are undefined; "
            "balanced accuracy and macro AUROC leave it out"
        )
    if foreign:
        notes.append(
            f"predicted, but without images: {foreign}; such a class counts as 0 in the "
            "macro means of precision, recall and F1, as in scikit-learn; balanced accuracy leaves "
            "it out"
        )
    if never:
        notes.append(
            f"never predicted: {never}; the precision of such a class is undefined and "
            "counts as 0 in means over classes"
        )
    if np.count_nonzero(support) < 2:
        notes.append("images of one class only: AUROC and Cohen's kappa are undefined")
    return notes


def _explain_missing_resamples(
    drawn: WeightedMetrics, support: npt.NDArray[np.int64], class_names: Sequence[str]
) -> list[str]:
    """Returns a sentence on classes so rare that some resamples lack them, if there are any."""
    missing = np.isnan(drawn.per_class["recall"]).sum(axis=0)
    rare = [f"{n} ({m})" for n, count, m in zip(class_names, support, missing) if count and m]
    if not rare:
        return []
    return [f"resamples without any image of a class, left out of its intervals: {', '.join(rare)}"]


def _check(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, class_names: Sequence[str]
) -> tuple[Labels, Array]:
    truth = np.asarray(labels, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or not len(truth) or scores.shape != (len(truth), len(class_names)):
        raise DataError(
            f"labels {truth.shape} and probabilities {scores.shape} must be (N,) and "
            f"(N, {len(class_names)}) with N of 1 or more"
        )
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise DataError(
            f"labels are {truth.min()} to {truth.max()}, but {len(class_names)} classes have "
            f"labels 0 to {len(class_names) - 1}"
        )
    sums = scores.sum(axis=1)
    unusable = ~np.isfinite(sums) | (scores < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
    if unusable.any():
        row = int(np.argmax(unusable))
        raise DataError(
            f"probabilities of image {row} are {scores[row].round(4).tolist()}; they must be 0 or "
            "more and sum to 1: pass the softmax of the logits"
        )
    return truth, scores / sums[:, None]


def _optional(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
