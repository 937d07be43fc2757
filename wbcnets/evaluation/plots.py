"""Plots of an evaluation: confusion matrix, ROC curves, reliability diagram, worst mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wbcnets.errors import explain_missing, shorten
from wbcnets.evaluation.predictions import Predictions
from wbcnets.evaluation.weighted_metrics import (
    CALIBRATION_BINS,
    Labels,
    calibration_bins,
    confidence_gap,
    roc_curve,
    weighted_auroc,
)
from wbcnets.io.atomic_files import write_atomically

with explain_missing():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
    from scipy.stats import binomtest

ReadImage = Callable[[int], npt.NDArray[np.uint8]]
MOST_CURVES = 12
# With more classes, a cell has room for its count only
_MOST_WITH_FRACTIONS = 16
_BLUE = "#20639b"
_COLUMNS = 6
_LONGEST_NAME = 26


def draw_confusion(truth: Labels, predictions: Predictions, path: Path) -> None:
    """Draws the confusion matrix: counts, colored by the fraction of the true class."""
    names = [_plain(name) for name in predictions.class_names]
    pairs = truth * len(names) + predictions.predicted
    counts = np.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), -1)
    fractions = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    roomy = len(names) <= _MOST_WITH_FRACTIONS
    side = max(4.0, (0.75 if roomy else 0.4) * len(names)) + 2.5
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    # The exponent makes a fraction of 2 % visible: it is a mistake, too
    image = axes.imshow(fractions, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=1))
    size = 11 if roomy else 10
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{n} ({c})" for n, c in zip(names, counts.sum(axis=1))])
    axes.tick_params(labelsize=size)
    axes.set_xlabel("predicted", fontsize=size + 2)
    axes.set_ylabel("true (images)", fontsize=size + 2)
    for row, column in zip(*np.nonzero(counts)):
        fraction = fractions[row, column]
        text = f"{counts[row, column]}\n{fraction:.1%}" if roomy else str(counts[row, column])
        ink = "white" if fraction > 0.3 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    bar = figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.6, aspect=30)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _save(figure, path)


def draw_roc(truth: Labels, predictions: Predictions, path: Path) -> None:
    """Draws each class's ROC curve against all others; with many classes, the worst ones.

    The right half enlarges the upper left corner, where the curves of good classifiers lie.
    """
    curves = []
    for index, name in enumerate(predictions.class_names):
        positive, scores = truth == index, predictions.probabilities[:, index]
        if 0 < positive.sum() < len(truth):
            area = float(weighted_auroc(positive, scores, np.ones((1, len(truth))))[0])
            curves.append((area, name, *roc_curve(positive, scores)))
    curves.sort(key=lambda curve: curve[0])
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    whole, corner = figure.subplots(1, 2)
    for index, (area, name, false_rate, true_rate) in enumerate(curves[:MOST_CURVES]):
        for axes in (whole, corner):
            axes.plot(
                false_rate,
                true_rate,
                label=f"{_plain(name)}: {area:.4f}",
                color=f"C{index % 6}",
                linestyle=("-", "--")[index // 6],
                linewidth=1.6,
            )
    whole.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    whole.set(xlim=(-0.01, 1), ylim=(0, 1.01), ylabel="sensitivity")
    corner.set(xlim=(-0.002, 0.2), ylim=(0.8, 1.002), title="the upper left corner")
    for axes in (whole, corner):
        axes.set_xlabel("1 - specificity")
        axes.grid(alpha=0.3)
    if len(curves) > MOST_CURVES:
        whole.set_title(f"the {MOST_CURVES} lowest of {len(curves)} classes")
    if curves:
        whole.legend(title="area under the curve", fontsize=9, loc="lower right")
    else:
        whole.set_title("no class has both positive and negative images")
    _save(figure, path)


def draw_reliability(truth: Labels, predictions: Predictions, path: Path) -> None:
    """Draws accuracy with 95% intervals against confidence, and the number of images per bin."""
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    axes = tuple(figure.subplots(2, 1, sharex=True, height_ratios=(3, 1)))
    confidence = predictions.probabilities.max(axis=1)
    plot_reliability(axes, predictions.predicted == truth, confidence, ("accuracy", "images"))
    _save(figure, path)


def plot_reliability(
    axes: tuple[Axes, Axes],
    correct: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    names: tuple[str, str],
) -> None:
    """Plots the share of correct predictions against confidence, and their numbers below it.

    Args:
        axes: The upper and the lower one, with one x axis.
        correct: (N,).
        confidence: (N,) in [0, 1].
        names: The meaning of the share, and what is counted.
    """
    bins = calibration_bins(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    hits = np.bincount(bins, correct, CALIBRATION_BINS)[filled]
    mean = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)[filled] / counts[filled]
    upper, lower = axes
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    ends = [
        binomtest(int(hit), int(count)).proportion_ci(method="wilson")
        for hit, count in zip(hits, counts[filled])
    ]
    upper.vlines(mean, *zip(*ends), color=_BLUE, alpha=0.5, linewidth=2)
    label = f"{names[0]}, 95% interval"
    upper.plot(mean, hits / counts[filled], marker="o", color=_BLUE, linewidth=1, label=label)
    error = confidence_gap(correct, confidence, np.ones((1, len(correct))))[0]
    title = f"expected calibration error {error:.4f}"
    upper.set(ylabel=names[0], ylim=(0, 1.02), title=title)
    upper.grid(alpha=0.3)
    upper.legend(loc="lower right", fontsize=9)
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    lower.bar(middles, counts, width=0.9 / CALIBRATION_BINS, color=_BLUE)
    lower.set(xlabel="confidence", ylabel=names[1], xlim=(0, 1.01))
    # From 0.5, so that the bar of a single image is visible
    lower.set_yscale("log")
    lower.set_ylim(0.5, 2 * max(1, counts.max()))


def draw_mistakes(
    truth: Labels, predictions: Predictions, read: ReadImage, path: Path, most: int = 24
) -> int:
    """Draws the mistakes with the highest probability; returns the number of all mistakes.

    Args:
        truth: True classes, (N,).
        predictions: Of the same images.
        read: Returns the image of an index, (H, W, 3) uint8.
        path: The image file; without mistakes, one of an earlier evaluation is removed.
        most: Number of images to draw at most.
    """
    wrong = np.flatnonzero(predictions.predicted != truth)
    if not len(wrong):
        path.unlink(missing_ok=True)
        return 0
    surest = wrong[np.argsort(-predictions.probabilities[wrong].max(axis=1), kind="stable")][:most]
    columns = min(_COLUMNS, max(3, len(surest)))
    rows = -(-len(surest) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.9 * rows + 0.5), layout="constrained")
    figure.suptitle(f"the {len(surest)} surest of {len(wrong)} mistakes in {len(truth)} images")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, surest):
        _draw_mistake(axes, predictions, int(truth[index]), int(index), read)
    _save(figure, path)
    return len(wrong)


def _draw_mistake(
    axes: Axes, predictions: Predictions, label: int, index: int, read: ReadImage
) -> None:
    names, probabilities = predictions.class_names, predictions.probabilities[index]
    predicted = int(predictions.predicted[index])
    axes.imshow(read(index))
    lines = (
        f"{shorten(names[label], _LONGEST_NAME)} ({probabilities[label]:.2f})",
        f"→ {shorten(names[predicted], _LONGEST_NAME)} ({probabilities[predicted]:.2f})",
        shorten(Path(predictions.files[index]).name, 30),
    )
    axes.set_title(_plain("\n".join(lines)), fontsize=8, loc="left")


def _plain(text: str) -> str:
    """Escapes dollar signs, between which matplotlib reads a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda file: figure.savefig(file, dpi=130))
