"""Calibration of a classifier: probabilities that hold, and a threshold below which people look.

Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wbcnets.data.cards.classes import OTHER
from wbcnets.data.cells.loading import load_cells
from wbcnets.errors import DataError, explain_missing
from wbcnets.evaluation.class_map import match_classes
from wbcnets.evaluation.classifier import Classifier
from wbcnets.evaluation.evaluate import predict_manifest
from wbcnets.evaluation.metadata import MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration
from wbcnets.io.outputs import StrPath

with explain_missing():
    from scipy.optimize import minimize_scalar

# Fraction of the cells of a known type that the threshold lets through
COVERAGE = 0.95


def calibrate_classifier(
    classifier: Classifier,
    data: Sequence[StrPath],
    split: str = "val",
    coverage: float = COVERAGE,
    batch_size: int = 64,
    workers: int = 2,
) -> Calibration:
    """Returns the temperature and the review threshold that fit labeled images.

    Args:
        classifier: The model; a calibration that it has is not applied.
        data: Names of prepared datasets, manifests, folders or tables, used together.
        split: The split of each; empty for all images.
        coverage: See ``review_threshold``.
        batch_size: Images per batch.
        workers: Processes that load images.

    Raises:
        DataError: if the data cannot be used, or its classes are not the model's.
    """
    names = classifier.class_names
    rows, truth = [], []
    for source in data:
        manifest = load_cells(source).split(split) if split else load_cells(source)
        chosen, _ = match_classes(manifest.class_names, names).select(manifest)
        found = predict_manifest(classifier, chosen, batch_size, workers, calibrated=False)
        rows.append(found.probabilities)
        truth.append(np.asarray(chosen.labels))
    probabilities, labels = np.concatenate(rows), np.concatenate(truth)
    temperature = fit_temperature(probabilities, labels)
    scaled = apply_temperature(probabilities, temperature)
    return Calibration(
        temperature=temperature, review_below=review_threshold(scaled, labels, names, coverage)
    )


def fit_temperature(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Returns the temperature with the lowest log loss.

    Args:
        probabilities: (N, K), the softmax of the logits.
        labels: True classes, (N,).

    Raises:
        DataError: if there are no images.
    """
    if not len(labels):
        raise DataError("there are no images to calibrate on")

    def log_loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, math.exp(log_temperature))
        return float(-np.log(scaled[np.arange(len(labels)), labels].clip(1e-12)).mean())

    bounds = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    return round(math.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x), 4)


def apply_temperature(
    probabilities: npt.NDArray[np.float64], temperature: float
) -> npt.NDArray[np.float64]:
    """Returns the softmax of the logits over a temperature, from the softmax of the logits."""
    logits = np.log(probabilities.clip(1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def review_threshold(
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    coverage: float = COVERAGE,
) -> float:
    """Returns the probability that a fraction of the cells of known types reaches, in [0, 1].

    Args:
        probabilities: (N, K), after temperature scaling.
        labels: True classes, (N,). Images of ``OTHER`` do not count.
        class_names: K names.
        coverage: The fraction, in (0, 1].
    """
    known = np.array([class_names[label] != OTHER for label in labels], dtype=bool)
    if not known.any():
        return 0.0
    return round(float(np.quantile(probabilities[known].max(axis=1), 1 - coverage)), 4)


def describe_calibration(calibration: Calibration, path: Path) -> str:
    """Returns a line for people about the calibration of a file."""
    return (
        f"{path}: temperature {calibration.temperature:g}, cells below a probability of "
        f"{calibration.review_below:g} go to review"
    )
