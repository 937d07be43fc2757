"""Bootstrap resamples of images or whole patients, and percentile intervals.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3. A resample is one weight
per image: the number of times it was drawn.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from wbcnets.evaluation.weighted_metrics import Array, Labels, WeightedMetrics, weighted_metrics

# Weights held at once, 32 MiB, for any number of images and resamples
_CHUNK = 1 << 22


def sampling_units(count: int, groups: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """Returns the number of each image's sampling unit, (N,); images of a unit are drawn together.

    Args:
        count: N.
        groups: Patient or slide of each image; an image without one is a unit of its own.
    """
    if groups is None or not any(groups):
        return np.arange(count)
    named = [group or f"\0{index}" for index, group in enumerate(groups)]
    return np.unique(named, return_inverse=True)[1].reshape(-1)


def bootstrap_weights(units: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[Array]:
    """Yields the weights of all resamples in chunks, (r, N).

    Args:
        units: See ``sampling_units``.
        resamples: At least 1.
        seed: Seeds the draws.
    """
    generator = np.random.default_rng(seed)
    total = int(units.max()) + 1
    chunk = max(1, _CHUNK // len(units))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.multinomial(total, np.full(total, 1 / total), size=size)
        yield drawn[:, units].astype(np.float64)


def bootstrap_metrics(
    labels: Labels, probabilities: Array, units: npt.NDArray[np.int64], resamples: int, seed: int
) -> WeightedMetrics:
    """Returns the metrics of each resample; see ``weighted_metrics`` and ``bootstrap_weights``."""
    parts = [
        weighted_metrics(labels, probabilities, weights)
        for weights in bootstrap_weights(units, resamples, seed)
    ]
    return WeightedMetrics(
        {name: np.concatenate([p.overall[name] for p in parts]) for name in parts[0].overall},
        {name: np.concatenate([p.per_class[name] for p in parts]) for name in parts[0].per_class},
    )


def percentile_interval(values: Array, confidence: float) -> tuple[float, float] | None:
    """Returns the interval of the values that are defined, or None if none is."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, (50 * (1 - confidence), 50 * (1 + confidence)))
    return float(low), float(high)
