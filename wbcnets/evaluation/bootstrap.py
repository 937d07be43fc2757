"""Figures of a classifier for many bootstrap resamples at once, and intervals from them.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3: the percentile interval.
A resample is a weight per image, how often it was drawn; a patient's images are drawn together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
CALIBRATION_BINS = 15
# Weights held at once: 32 MiB, whatever the number of images and resamples
_CHUNK = 1 << 22


@dataclass(frozen=True)
class WeightedMetrics:
    """Figures of R resamples, NaN where one is undefined.

    Attributes:
        overall: For each figure (R,).
        per_class: For each figure (R, K).
    """

    overall: dict[str, Array]
    per_class: dict[str, Array]


def sampling_units(count: int, groups: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """What is drawn together: (N,), the same number for the images of one group.

    Args:
        count: N.
        groups: Patient or slide of each image; an image without one is a unit of its own.
    """
    if groups is None or not any(groups):
        return np.arange(count)
    named = [group or f"\0{index}" for index, group in enumerate(groups)]
    return np.unique(named, return_inverse=True)[1].reshape(-1)


def bootstrap_weights(count: int, groups: Sequence[str] | None, resamples: int, seed: int) -> Array:
    """How often each image is in each resample: (resamples, N)."""
    chunks = list(_weight_chunks(sampling_units(count, groups), resamples, seed, resamples))
    return np.concatenate(chunks)


def bootstrap_metrics(
    truth: npt.NDArray[np.int64],
    scores: Array,
    groups: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> WeightedMetrics:
    """The figures of bootstrap resamples.

    Args:
        truth: True classes (N,).
        scores: Probabilities (N, K).
        groups: Patient or slide of each image.
        resamples: R, at least 1.
        seed: Of the resamples.
    """
    at_once = max(1, _CHUNK // len(truth))
    units = sampling_units(len(truth), groups)
    parts = [
        weighted_metrics(truth, scores, weights)
        for weights in _weight_chunks(units, resamples, seed, at_once)
    ]
    return WeightedMetrics(
        {name: np.concatenate([p.overall[name] for p in parts]) for name in parts[0].overall},
        {name: np.concatenate([p.per_class[name] for p in parts]) for name in parts[0].per_class},
    )


def percentile_interval(values: Array, confidence: float) -> tuple[float, float] | None:
    """The interval of R values; of those that are defined, None where none is."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, (50 * (1 - confidence), 50 * (1 + confidence)))
    return float(low), float(high)


def weighted_metrics(
    truth: npt.NDArray[np.int64], scores: Array, weights: Array
) -> WeightedMetrics:
    """The figures for images that count several times or not at all.

    Args:
        truth: (N,).
        scores: (N, K).
        weights: (R, N).
    """
    classes = scores.shape[1]
    pairs = truth * classes + scores.argmax(axis=1)
    confusion: Array = np.stack(
        [np.bincount(pairs, row, classes * classes).astype(np.float64) for row in weights]
    )
    figures = _confusion_metrics(confusion.reshape(-1, classes, classes))
    aurocs = np.stack(
        [_weighted_auroc(truth == k, scores[:, k], weights) for k in range(classes)], axis=1
    )
    figures.per_class["auroc"] = aurocs
    figures.overall["auroc_macro"] = _mean(aurocs, np.isfinite(aurocs))
    # From here on as scikit-learn does in its log loss: no logarithm of zero
    likelihood = scores[np.arange(len(truth)), truth].clip(np.finfo(np.float64).eps, 1)
    figures.overall["log_loss"] = weights @ -np.log(likelihood) / weights.sum(axis=1)
    figures.overall["expected_calibration_error"] = weighted_calibration_error(
        truth, scores, weights
    )
    return figures


def calibration_bins(scores: Array) -> npt.NDArray[np.int64]:
    """The bin of each image's confidence, from 0 to `CALIBRATION_BINS` - 1."""
    confidence = scores.max(axis=1)
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1)


def weighted_calibration_error(
    truth: npt.NDArray[np.int64], scores: Array, weights: Array
) -> Array:
    """The expected calibration error, Naeini et al. (AAAI 2015), of each resample: (R,)."""
    correct = (scores.argmax(axis=1) == truth).astype(np.float64)
    gap = (correct - scores.max(axis=1))[:, None]
    per_bin = np.eye(CALIBRATION_BINS)[calibration_bins(scores)] * gap
    return np.abs(weights @ per_bin).sum(axis=1) / weights.sum(axis=1)


def _weight_chunks(
    units: npt.NDArray[np.int64], resamples: int, seed: int, at_once: int
) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    total = int(units.max()) + 1
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.multinomial(total, np.full(total, 1 / total), size=size)
        yield drawn[:, units].astype(np.float64)


def _weighted_auroc(positive: npt.NDArray[np.bool_], score: Array, weights: Array) -> Array:
    """How often a positive's score is above a negative's, ties half: (R,)."""
    order = np.argsort(score, kind="stable")
    ordered, is_positive = score[order], positive[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    drawn = weights[:, order]
    # Sums over images with the same score
    positives = np.add.reduceat(drawn * is_positive, starts, axis=1)
    negatives = np.add.reduceat(drawn * ~is_positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return _ratio(won, positives.sum(axis=1) * negatives.sum(axis=1))


def _confusion_metrics(confusion: Array) -> WeightedMetrics:
    """Figures from confusion matrices (R, true, predicted).

    In means over classes scikit-learn's conventions hold: a class that is neither true nor
    predicted is left out, an undefined precision or recall of another one counts as 0.
    """
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = support.sum(axis=1)
    negatives = total[:, None] - support
    seen = support > 0
    mentioned = seen | (predicted > 0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    specificity = _ratio(negatives - (predicted - hits), negatives)
    chance = (support * predicted).sum(axis=1) / total**2
    agreement = hits.sum(axis=1) / total
    overall = {
        "accuracy": agreement,
        "balanced_accuracy": _mean(recall, seen),
        "specificity_macro": _mean(specificity, negatives > 0),
        "cohen_kappa": _ratio(agreement - chance, 1 - chance),
    }
    per_class = {"precision": precision, "recall": recall, "f1": f1}
    for name, values in per_class.items():
        counted = np.nan_to_num(values)
        overall[f"{name}_macro"] = _mean(counted, mentioned)
        overall[f"{name}_weighted"] = (counted * support).sum(axis=1) / total
    return WeightedMetrics(overall, {**per_class, "specificity": specificity})


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean(values: Array, where: npt.NDArray[np.bool_]) -> Array:
    """Means over classes (R, K) -> (R,) of the places that `where` marks."""
    total = np.where(where, values, 0).sum(axis=1)
    return _ratio(total, where.sum(axis=1).astype(np.float64))
