"""How good a classifier is: figures of all classes and of each, with intervals.

Point estimates are scikit-learn's, but for the specificity, which it lacks, and the expected
calibration error (Naeini et al., AAAI 2015; 15 bins of equal width). Intervals are percentiles over
bootstrap resamples of the images, or of whole patients where groups are known, see `bootstrap`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from wbcnets.errors import DataError
from wbcnets.evaluation.bootstrap import (
    WeightedMetrics,
    bootstrap_metrics,
    percentile_interval,
    sampling_units,
    weighted_calibration_error,
    weighted_metrics,
)

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
OVERALL = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "specificity_macro",
    "auroc_macro",
    "cohen_kappa",
    "expected_calibration_error",
    "log_loss",
)
PER_CLASS = ("precision", "recall", "f1", "specificity", "auroc")


@dataclass(frozen=True)
class ClassifierMetrics:
    """The figures of one evaluation.

    Attributes:
        overall: Each of `OVERALL`; None where it is undefined.
        per_class: For each class name, each of `PER_CLASS` and the number of images, "support".
        intervals: Lower and upper ends for the figures of `overall` that have some.
        notes: Why a figure is undefined or leaves classes out.
        class_intervals: The same as `intervals` for each class name.
        bootstrap: How the intervals were made: "resamples", "confidence", "seed", "unit" ("image"
            or "group") and "units", how many there are; empty without intervals.
    """

    overall: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    intervals: dict[str, Interval]
    notes: tuple[str, ...]
    class_intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    bootstrap: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists."""
        return {
            "overall": self.overall,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "per_class": self.per_class,
            "per_class_intervals": {
                class_name: {name: list(ends) for name, ends in row.items()}
                for class_name, row in self.class_intervals.items()
            },
            "bootstrap": self.bootstrap,
            "notes": list(self.notes),
        }


def judge(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ClassifierMetrics:
    """Figures of predictions, with bootstrap intervals.

    Args:
        labels: True classes, (N,) from 0 to K - 1.
        probabilities: (N, K), each row of which sums to 1.
        class_names: K names.
        groups: Patient or slide of each image; those that share one are drawn together.
        resamples: Bootstrap resamples; 0 leaves intervals out.
        confidence: Share of the resamples between the ends of an interval.
        seed: Of the resamples.

    Raises:
        DataError: There are no images, or the arrays do not go together.
    """
    truth, scores = _checked(labels, probabilities, class_names)
    overall, per_class = _point_estimates(truth, scores, class_names)
    notes = _explain_undefined(truth, scores, class_names)
    units = sampling_units(len(truth), groups)
    count = int(units.max()) + 1
    intervals: dict[str, Interval] = {}
    class_intervals: dict[str, dict[str, Interval]] = {}
    how: dict[str, Any] = {}
    if resamples and count < 2:
        notes.append("all images are one image or group: there are no intervals")
    elif resamples:
        unit = "image" if groups is None or not any(groups) else "group"
        how = {"resamples": resamples, "confidence": confidence, "seed": seed}
        how |= {"unit": unit, "units": count}
        drawn = bootstrap_metrics(truth, scores, groups, resamples, seed)
        intervals = _intervals(overall, drawn.overall, confidence)
        for place, name in enumerate(class_names):
            columns = {key: values[:, place] for key, values in drawn.per_class.items()}
            class_intervals[name] = _intervals(per_class[name], columns, confidence)
        notes += _explain_missing_resamples(drawn, truth, class_names)
    return ClassifierMetrics(overall, per_class, intervals, tuple(notes), class_intervals, how)


def expected_calibration_error(truth: npt.NDArray[np.int64], scores: Array) -> float:
    """Mean distance between confidence and accuracy over bins of confidence, weighed by images."""
    return float(weighted_calibration_error(truth, scores, np.ones((1, len(truth))))[0])


def _intervals(
    points: dict[str, float | None], drawn: dict[str, Array], confidence: float
) -> dict[str, Interval]:
    """Intervals of the figures that are defined."""
    ends = {
        name: percentile_interval(drawn[name], confidence)
        for name, value in points.items()
        if value is not None and name in drawn
    }
    return {name: interval for name, interval in ends.items() if interval is not None}


def _explain_undefined(
    truth: npt.NDArray[np.int64], scores: Array, class_names: Sequence[str]
) -> list[str]:
    """A sentence for each reason why figures are undefined."""
    support = np.bincount(truth, minlength=len(class_names))
    predicted = np.bincount(scores.argmax(axis=1), minlength=len(class_names))
    absent = [name for name, count in zip(class_names, support) if not count]
    never = [n for n, count, said in zip(class_names, support, predicted) if count and not said]
    notes = []
    if absent:
        notes.append(
            f"no images of {', '.join(absent)}: their recall and AUROC are undefined, and left out "
            "of balanced accuracy and of the macro AUROC"
        )
    foreign = [n for n, count, said in zip(class_names, support, predicted) if said and not count]
    if foreign:
        notes.append(
            f"predicted without any image: {', '.join(foreign)}; as in scikit-learn they count as "
            "0 in the macro means of precision, recall and F1, which balanced accuracy avoids"
        )
    if never:
        notes.append(
            f"never predicted: {', '.join(never)}; their precision is undefined, and counts as 0 "
            "in the means over classes"
        )
    if len(class_names) - len(absent) < 2:
        notes.append("images of one class only: AUROC and Cohen's kappa are undefined")
    return notes


def _explain_missing_resamples(
    drawn: WeightedMetrics, truth: npt.NDArray[np.int64], class_names: Sequence[str]
) -> list[str]:
    """A sentence about classes that are so rare that some resamples are without them."""
    present = np.unique(truth)
    without = np.isnan(drawn.per_class["recall"][:, present]).sum(axis=0)
    rare = [f"{class_names[k]} ({n})" for k, n in zip(present, without) if n]
    if not rare:
        return []
    return [
        f"resamples without any image of a class, which its intervals leave out: {', '.join(rare)}"
    ]


def _point_estimates(
    truth: npt.NDArray[np.int64], scores: Array, class_names: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    places = list(range(len(class_names)))
    predicted = scores.argmax(axis=1)
    mentioned = sorted({*truth.tolist(), *predicted.tolist()})
    recall = sklearn_metrics.recall_score(
        truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
    )
    # Of one true class it would be 0 whatever is predicted
    several = len(np.unique(truth)) > 1
    kappa = sklearn_metrics.cohen_kappa_score(truth, predicted) if several else np.nan
    own = weighted_metrics(truth, scores, np.ones((1, len(truth)))).overall
    overall: dict[str, float | None] = {
        "accuracy": float(sklearn_metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall),
        "specificity_macro": _optional(own["specificity_macro"][0]),
        "expected_calibration_error": expected_calibration_error(truth, scores),
        # scikit-learn's refuses a single class, of which it is 0
        "log_loss": float(sklearn_metrics.log_loss(truth, scores, labels=places))
        if len(places) > 1
        else 0.0,
        "cohen_kappa": _optional(kappa),
    }
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
            truth, predicted, labels=mentioned, average=average, zero_division=0
        )
        overall[f"precision_{average}"] = float(precision)
        overall[f"recall_{average}"] = float(recall)
        overall[f"f1_{average}"] = float(f1)
    per_class = _per_class(truth, scores, predicted, class_names)
    aurocs = [row["auroc"] for row in per_class.values() if row["auroc"] is not None]
    overall["auroc_macro"] = float(np.mean(aurocs)) if aurocs else None
    return {name: overall[name] for name in OVERALL}, per_class


def _per_class(
    truth: npt.NDArray[np.int64],
    scores: Array,
    predicted: npt.NDArray[np.int64],
    class_names: Sequence[str],
) -> dict[str, dict[str, float | None]]:
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, labels=list(range(len(class_names))), zero_division=np.nan
    )
    rows: dict[str, dict[str, float | None]] = {}
    for place, name in enumerate(class_names):
        positive = truth == place
        negatives = int((~positive).sum())
        true_negatives = int(((predicted != place) & ~positive).sum())
        both = 0 < support[place] < len(truth)
        area = sklearn_metrics.roc_auc_score(positive, scores[:, place]) if both else np.nan
        rows[name] = {
            "support": int(support[place]),
            "precision": _optional(precision[place]),
            "recall": _optional(recall[place]),
            "f1": _optional(f1[place]),
            "specificity": true_negatives / negatives if negatives else None,
            "auroc": _optional(area),
        }
    return rows


def _checked(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, class_names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], Array]:
    truth = np.asarray(labels, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or not len(truth) or scores.shape != (len(truth), len(class_names)):
        raise DataError(
            f"labels {truth.shape} and probabilities {scores.shape} must be (N,) and "
            f"(N, {len(class_names)}) with N from 1"
        )
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise DataError(
            f"labels from {truth.min()} to {truth.max()} for {len(class_names)} classes, which "
            f"are numbered from 0 to {len(class_names) - 1}"
        )
    sums = scores.sum(axis=1)
    unusable = ~np.isfinite(sums) | (scores < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)
    if unusable.any():
        row = int(np.argmax(unusable))
        raise DataError(
            f"probabilities of image {row} are {scores[row].round(4).tolist()}: they must be from "
            "0 and sum to 1; pass the softmax of the logits"
        )
    return truth, scores / sums[:, None]


def _optional(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
