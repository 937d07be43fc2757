"""Pictures of an evaluation: confusion matrix, ROC curves, reliability, the worst mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_curve

from wbcnets.data.draw import contact_sheet
from wbcnets.train.metrics import CALIBRATION_BINS, calibration_bins
from wbcnets.train.predictions import Predictions

Array = npt.NDArray[np.float64]
MOST_CURVES = 12


def draw_confusion(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws how often each true class was taken for which: numbers, coloured by the row's share."""
    names = predictions.class_names
    counts = confusion_matrix(truth, predictions.predicted, labels=range(len(names)))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = max(5.0, 0.42 * len(names) + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{n} ({c})" for n, c in zip(names, counts.sum(axis=1))])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (images)")
    size = 9 if len(names) <= 16 else 6
    for row, column in zip(*np.nonzero(counts)):
        ink = "white" if shares[row, column] > 0.5 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)


def draw_roc(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws each class's ROC curve against all others; of many classes, the worst ones."""
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    axes = figure.subplots()
    curves = []
    for place, name in enumerate(predictions.class_names):
        positive = truth == place
        if 0 < positive.sum() < len(truth):
            false_rate, true_rate, _ = roc_curve(positive, predictions.probabilities[:, place])
            area = float(np.trapezoid(true_rate, false_rate))
            curves.append((area, name, false_rate, true_rate))
    curves.sort(key=lambda curve: curve[0])
    for area, name, false_rate, true_rate in curves[:MOST_CURVES]:
        axes.plot(false_rate, true_rate, label=f"{name}: {area:.4f}", linewidth=1.4)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
    if len(curves) > MOST_CURVES:
        axes.set_title(f"the {MOST_CURVES} lowest of {len(curves)} classes")
    if curves:
        axes.legend(title="area under the curve", fontsize=8, loc="lower right")
    _save(figure, path)


def draw_reliability(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws accuracy against confidence, and how many images have which confidence."""
    bins = calibration_bins(predictions.probabilities)
    confidence = predictions.probabilities.max(axis=1)
    correct = predictions.predicted == truth
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    accuracy = np.bincount(bins, correct, minlength=CALIBRATION_BINS)[filled] / counts[filled]
    mean = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)[filled] / counts[filled]
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    upper.plot(mean, accuracy, marker="o", color="#20639b")
    upper.set(ylabel="accuracy", ylim=(0, 1.02))
    lower.bar(
        (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS,
        counts,
        width=0.9 / CALIBRATION_BINS,
        color="#20639b",
    )
    lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1), yscale="log")
    _save(figure, path)


def draw_mistakes(
    truth: npt.NDArray[np.int64],
    predictions: Predictions,
    read: Callable[[int], npt.NDArray[np.uint8]],
    path: Path,
    most: int = 24,
) -> int:
    """Draws the images that were most surely taken for another class.

    Args:
        truth: True classes (N,).
        predictions: What was said about them.
        read: Gives the image of a place, (H, W, 3) uint8.
        path: The picture; not written where there is no mistake.
        most: At most so many images.

    Returns:
        How many mistakes there are.
    """
    wrong = np.flatnonzero(predictions.predicted != truth)
    if not len(wrong):
        return 0
    surest = wrong[np.argsort(-predictions.probabilities[wrong].max(axis=1), kind="stable")][:most]
    names = predictions.class_names
    captions = [
        f"{names[truth[place]]} as {names[predictions.predicted[place]]} "
        f"{predictions.probabilities[place].max():.2f}"
        for place in surest
    ]
    images = [read(int(place)) for place in surest]
    Image.fromarray(contact_sheet(images, columns=6, captions=captions, tile_width=220)).save(path)
    return len(wrong)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)
