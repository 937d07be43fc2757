"""Classification metrics of images that count several times or not at all.

Weights of one give the point estimate; the number of times that each image was drawn gives a
bootstrap resample. The conventions are scikit-learn's: means over classes leave out a class that is
neither true nor predicted, and count an undefined precision or recall of another class as 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class WeightedMetrics:
    """Metrics for R sets of weights, NaN where undefined.

    Attributes:
        overall: Metric -> (R,).
        per_class: Metric -> (R, K).
    """

    overall: dict[str, Array]
    per_class: dict[str, Array]


def weighted_metrics(labels: Labels, probabilities: Array, weights: Array) -> WeightedMetrics:
    """Returns all metrics for each set of weights.

    Args:
        labels: True classes, (N,).
        probabilities: (N, K).
        weights: (R, N).
    """
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(axis=1)
    confusion: Array = np.stack(
        [np.bincount(pairs, row, classes * classes).astype(np.float64) for row in weights]
    )
    metrics = _confusion_metrics(confusion.reshape(-1, classes, classes))
    aurocs = np.stack(
        [weighted_auroc(labels == k, probabilities[:, k], weights) for k in range(classes)], axis=1
    )
    metrics.per_class["auroc"] = aurocs
    metrics.overall["auroc_macro"] = _mean(aurocs, np.isfinite(aurocs))
    # Clipped as in scikit-learn's log loss, which has no logarithm of 0
    likelihood = probabilities[np.arange(len(labels)), labels].clip(np.finfo(np.float64).eps, 1)
    metrics.overall["log_loss"] = weights @ -np.log(likelihood) / weights.sum(axis=1)
    metrics.overall["expected_calibration_error"] = weighted_calibration_error(
        labels, probabilities, weights
    )
    return metrics


def calibration_bins(confidence: Array) -> npt.NDArray[np.int64]:
    """Returns the bin of each confidence, (N,) in [0, ``CALIBRATION_BINS`` - 1].

    Bins have equal widths and include their upper ends.
    """
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1)


def weighted_calibration_error(labels: Labels, probabilities: Array, weights: Array) -> Array:
    """Returns the expected calibration error (Naeini et al., AAAI 2015), (R,).

    It is the mean distance between confidence and accuracy over the bins, weighted by images.
    """
    correct = probabilities.argmax(axis=1) == labels
    return confidence_gap(correct, probabilities.max(axis=1), weights)


def confidence_gap(correct: npt.NDArray[np.bool_], confidence: Array, weights: Array) -> Array:
    """Returns the mean distance between confidence and share of correct ones over the bins, (R,).

    Args:
        correct: (N,).
        confidence: (N,) in [0, 1].
        weights: (R, N).
    """
    gap = (correct - confidence)[:, None]
    per_bin = np.eye(CALIBRATION_BINS)[calibration_bins(confidence)] * gap
    return np.abs(weights @ per_bin).sum(axis=1) / weights.sum(axis=1)


def weighted_auroc(positive: npt.NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Returns how often a positive scores above a negative, ties count half: (R,).

    Args:
        positive: Whether each image belongs to the class, (N,).
        scores: (N,).
        weights: (R, N).
    """
    positives, negatives = _sums_by_score(positive, scores, weights)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return _ratio(won, positives.sum(axis=1) * negatives.sum(axis=1))


def roc_curve(positive: npt.NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Returns false and true positive rates from (0, 0) to (1, 1), one point per distinct score."""
    positives, negatives = _sums_by_score(positive, scores, np.ones((1, len(scores))))
    false_rate, true_rate = (
        np.concatenate([[0.0], np.cumsum(sums[0, ::-1])]) / sums.sum()
        for sums in (negatives, positives)
    )
    return false_rate, true_rate


def _sums_by_score(
    positive: npt.NDArray[np.bool_], scores: Array, weights: Array
) -> tuple[Array, Array]:
    """Returns the weights of positives and negatives for each distinct score, ascending."""
    order = np.argsort(scores, kind="stable")
    ordered, is_positive = scores[order], positive[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    drawn = weights[:, order]
    positives = np.add.reduceat(drawn * is_positive, starts, axis=1)
    negatives = np.add.reduceat(drawn * ~is_positive, starts, axis=1)
    return positives, negatives


def _confusion_metrics(confusion: Array) -> WeightedMetrics:
    """Returns the metrics of confusion matrices (R, true, predicted)."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = support.sum(axis=1)
    negatives = total[:, None] - support
    seen = support > 0
    mentioned = seen | (predicted > 0)
    specificity = _ratio(negatives - (predicted - hits), negatives)
    chance = (support * predicted).sum(axis=1) / total**2
    agreement = hits.sum(axis=1) / total
    # With one true class kappa is 0 whatever is predicted, which says nothing
    kappa = np.where(seen.sum(axis=1) > 1, _ratio(agreement - chance, 1 - chance), np.nan)
    per_class = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
    }
    counted = {name: np.nan_to_num(values) for name, values in per_class.items()}
    overall = {
        "accuracy": agreement,
        "balanced_accuracy": _mean(per_class["recall"], seen),
        **{f"{name}_macro": _mean(values, mentioned) for name, values in counted.items()},
        **{
            f"{name}_weighted": (values * support).sum(axis=1) / total
            for name, values in counted.items()
        },
        "specificity_macro": _mean(specificity, negatives > 0),
        "cohen_kappa": kappa,
    }
    return WeightedMetrics(overall, {**per_class, "specificity": specificity})


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Returns the quotient, NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean(values: Array, where: npt.NDArray[np.bool_]) -> Array:
    """(R, K) -> (R,): means over the classes that ``where`` marks."""
    total = np.where(where, values, 0).sum(axis=1)
    return _ratio(total, where.sum(axis=1).astype(np.float64))


def rejection_curve(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns coverage, accuracy and threshold, (N,) each, as the surest images come first."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    taken = np.arange(1, len(labels) + 1)
    return taken / len(labels), right.cumsum() / taken, confidence[order]
