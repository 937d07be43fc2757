"""How good a classifier is: figures of all classes and of each, with intervals.

Point estimates are scikit-learn's, but for the specificity, which it lacks, and the expected
calibration error (Naeini et al., AAAI 2015; 15 bins of equal width). Intervals are percentiles over
bootstrap resamples of the images, or of whole patients where groups are known; there the same
figures are computed for all resamples at once, each image weighed by how often it was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from wbcnets.errors import DataError

Array = npt.NDArray[np.float64]
CALIBRATION_BINS = 15
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
class Judgement:
    """The figures of one evaluation.

    Attributes:
        overall: Each of `OVERALL`; None where it is undefined.
        per_class: For each class name, each of `PER_CLASS` and the number of images, "support".
        intervals: Lower and upper ends for the figures of `overall` that have some.
        notes: Why a figure is undefined or leaves classes out.
    """

    overall: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    intervals: dict[str, tuple[float, float]]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists."""
        return {
            "overall": self.overall,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "per_class": self.per_class,
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
) -> Judgement:
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
    once = np.ones((1, len(truth)))
    overall, per_class = _point_estimates(truth, scores, class_names)
    absent = [name for name, row in per_class.items() if not row["support"]]
    notes = []
    if absent:
        notes.append(
            f"no images of {', '.join(absent)}: their recall and AUROC are undefined, and left out "
            "of balanced accuracy and of the macro AUROC"
        )
    if len(class_names) - len(absent) < 2:
        notes.append("images of one class only: AUROC and Cohen's kappa are undefined")
    overall["specificity_macro"] = _optional(
        weighted_figures(truth, scores, once)["specificity_macro"][0]
    )
    intervals = {}
    if resamples:
        weights = bootstrap_weights(len(truth), groups, resamples, seed)
        drawn = weighted_figures(truth, scores, weights)
        ends = (50 * (1 - confidence), 50 * (1 + confidence))
        for name in OVERALL:
            if overall[name] is not None and np.isfinite(drawn[name]).all():
                low, high = np.percentile(drawn[name], ends)
                intervals[name] = (float(low), float(high))
    ordered = {name: overall[name] for name in OVERALL}
    return Judgement(ordered, per_class, intervals, tuple(notes))


def bootstrap_weights(count: int, groups: Sequence[str] | None, resamples: int, seed: int) -> Array:
    """How often each image is in each resample: (resamples, N)."""
    generator = np.random.default_rng(seed)
    if groups is None or not any(groups):
        units = np.arange(count)
    else:
        # An image without a group is a group of its own
        named = [group or f"\0{index}" for index, group in enumerate(groups)]
        units = np.unique(named, return_inverse=True)[1].reshape(-1)
    total = int(units.max()) + 1
    drawn = generator.multinomial(total, np.full(total, 1 / total), size=resamples)
    return drawn[:, units].astype(np.float64)


def weighted_figures(
    truth: npt.NDArray[np.int64], scores: Array, weights: Array
) -> dict[str, Array]:
    """The figures of `OVERALL` for images that count several times or not at all.

    Args:
        truth: (N,).
        scores: (N, K).
        weights: (R, N).

    Returns:
        For each figure R values, NaN where it is undefined.
    """
    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    pairs = np.eye(classes * classes)[truth * classes + predicted]
    confusion = (weights @ pairs).reshape(-1, classes, classes)
    figures = _confusion_figures(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        aurocs = np.stack(
            [_weighted_auroc(truth == k, scores[:, k], weights) for k in range(classes)]
        )
        defined = np.isfinite(aurocs)
        figures["auroc_macro"] = np.where(defined, aurocs, 0).sum(axis=0) / defined.sum(axis=0)
        total = weights.sum(axis=1)
        losses = -np.log(np.clip(scores[np.arange(len(truth)), truth], 1e-15, None))
        figures["log_loss"] = weights @ losses / total
    figures["expected_calibration_error"] = _weighted_ece(truth, scores, weights)
    return figures


def expected_calibration_error(truth: npt.NDArray[np.int64], scores: Array) -> float:
    """Mean distance between confidence and accuracy over bins of confidence, weighed by images."""
    return float(_weighted_ece(truth, scores, np.ones((1, len(truth))))[0])


def calibration_bins(scores: Array) -> npt.NDArray[np.int64]:
    """The bin of each image's confidence, from 0 to `CALIBRATION_BINS` - 1."""
    confidence = scores.max(axis=1)
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1)


def _weighted_ece(truth: npt.NDArray[np.int64], scores: Array, weights: Array) -> Array:
    correct = (scores.argmax(axis=1) == truth).astype(np.float64)
    gap = (
        np.eye(CALIBRATION_BINS)[calibration_bins(scores)] * (correct - scores.max(axis=1))[:, None]
    )
    return np.abs(weights @ gap).sum(axis=1) / weights.sum(axis=1)


def _weighted_auroc(positive: npt.NDArray[np.bool_], score: Array, weights: Array) -> Array:
    """How often a positive's score is above a negative's, ties half: (R,)."""
    values, place = np.unique(score, return_inverse=True)
    sums = np.zeros((len(values), len(score)))
    sums[place.reshape(-1), np.arange(len(score))] = 1.0
    positives, negatives = weights * positive, weights * ~positive
    per_value_positive, per_value_negative = positives @ sums.T, negatives @ sums.T
    below = np.cumsum(per_value_negative, axis=1) - per_value_negative
    won = (per_value_positive * (below + 0.5 * per_value_negative)).sum(axis=1)
    return won / (positives.sum(axis=1) * negatives.sum(axis=1))


def _confusion_figures(confusion: Array) -> dict[str, Array]:
    """Figures from confusion matrices (R, true, predicted); scikit-learn's conventions."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = support.sum(axis=1)
    negatives = total[:, None] - support
    seen = support > 0
    mentioned = seen | (predicted > 0)

    def ratio(numerator: Array, denominator: Array) -> Array:
        return np.divide(
            numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0
        )

    def mean(values: Array, where: npt.NDArray[np.bool_]) -> Array:
        return (values * where).sum(axis=1) / where.sum(axis=1)

    precision, recall = ratio(hits, predicted), ratio(hits, support)
    f1 = ratio(2 * hits, support + predicted)
    specificity = ratio(negatives - (predicted - hits), negatives)
    chance = (support * predicted).sum(axis=1) / total**2
    agreement = hits.sum(axis=1) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(chance < 1, (agreement - chance) / (1 - chance), np.nan)
    return {
        "accuracy": agreement,
        "balanced_accuracy": mean(recall, seen),
        "precision_macro": mean(precision, mentioned),
        "recall_macro": mean(recall, mentioned),
        "f1_macro": mean(f1, mentioned),
        "precision_weighted": (precision * support).sum(axis=1) / total,
        "recall_weighted": (recall * support).sum(axis=1) / total,
        "f1_weighted": (f1 * support).sum(axis=1) / total,
        "specificity_macro": mean(specificity, negatives > 0),
        "cohen_kappa": kappa,
    }


def _point_estimates(
    truth: npt.NDArray[np.int64], scores: Array, class_names: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    places = list(range(len(class_names)))
    predicted = scores.argmax(axis=1)
    mentioned = sorted({*truth.tolist(), *predicted.tolist()})
    overall: dict[str, float | None] = {
        "accuracy": float(sklearn_metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(
            sklearn_metrics.recall_score(
                truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
            )
        ),
        "expected_calibration_error": expected_calibration_error(truth, scores),
        "log_loss": float(sklearn_metrics.log_loss(truth, scores, labels=places)),
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
    kappa = sklearn_metrics.cohen_kappa_score(truth, predicted) if len(mentioned) > 1 else np.nan
    overall["cohen_kappa"] = _optional(kappa)
    return overall, per_class


def _per_class(
    truth: npt.NDArray[np.int64],
    scores: Array,
    predicted: npt.NDArray[np.int64],
    class_names: Sequence[str],
) -> dict[str, dict[str, float | None]]:
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, labels=list(range(len(class_names))), zero_division=0
    )
    rows: dict[str, dict[str, float | None]] = {}
    for place, name in enumerate(class_names):
        positive = truth == place
        negatives = int((~positive).sum())
        true_negatives = int(((predicted != place) & ~positive).sum())
        both = 0 < support[place] < len(truth)
        rows[name] = {
            "support": int(support[place]),
            "precision": float(precision[place]),
            "recall": float(recall[place]) if support[place] else None,
            "f1": float(f1[place]),
            "specificity": true_negatives / negatives if negatives else None,
            "auroc": float(sklearn_metrics.roc_auc_score(positive, scores[:, place]))
            if both
            else None,
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
    if (
        not np.isfinite(scores).all()
        or scores.min() < 0
        or np.abs(scores.sum(axis=1) - 1).max() > 1e-3
    ):
        row = int(
            np.argmax(~np.isfinite(scores).all(axis=1) | (np.abs(scores.sum(axis=1) - 1) > 1e-3))
        )
        raise DataError(
            f"probabilities of image {row} are {scores[row].round(4).tolist()}: they must be from "
            "0 and sum to 1; pass the softmax of the logits"
        )
    return truth, scores / scores.sum(axis=1, keepdims=True)


def _optional(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
