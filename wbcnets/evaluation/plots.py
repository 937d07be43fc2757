"""Pictures of an evaluation: confusion matrix, ROC curves, reliability, the worst mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import roc_curve

from wbcnets.evaluation.bootstrap import CALIBRATION_BINS, calibration_bins
from wbcnets.evaluation.metrics import expected_calibration_error
from wbcnets.evaluation.predictions import Predictions

Array = npt.NDArray[np.float64]
Read = Callable[[int], npt.NDArray[np.uint8]]
MOST_CURVES = 12
# Up to so many classes a cell has room for its share beside its count
_MOST_WITH_SHARES = 16
_BLUE = "#20639b"
_COLUMNS = 6


def draw_confusion(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws how often each true class was taken for which: numbers, colored by the row's share."""
    names = [_plain(name) for name in predictions.class_names]
    pairs = truth * len(names) + predictions.predicted
    counts = np.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), -1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    roomy = len(names) <= _MOST_WITH_SHARES
    side = max(4.0, (0.75 if roomy else 0.4) * len(names)) + 2.5
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    # A root, since a share of 2 % is a mistake that has to be seen
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=1))
    size = 11 if roomy else 10
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{n} ({c})" for n, c in zip(names, counts.sum(axis=1))])
    axes.tick_params(labelsize=size)
    axes.set_xlabel("predicted", fontsize=size + 2)
    axes.set_ylabel("true (images)", fontsize=size + 2)
    for row, column in zip(*np.nonzero(counts)):
        share = shares[row, column]
        text = f"{counts[row, column]}\n{share:.1%}" if roomy else str(counts[row, column])
        ink = "white" if share > 0.3 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.6, aspect=30)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _save(figure, path)


def draw_roc(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws each class's ROC curve against all others; of many classes, the worst ones.

    The right half enlarges the corner in which the curves of good classifiers lie.
    """
    curves = []
    for place, name in enumerate(predictions.class_names):
        positive = truth == place
        if 0 < positive.sum() < len(truth):
            false_rate, true_rate, _ = roc_curve(positive, predictions.probabilities[:, place])
            area = float(np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2))
            curves.append((area, name, false_rate, true_rate))
    curves.sort(key=lambda curve: curve[0])
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    whole, corner = figure.subplots(1, 2)
    for place, (area, name, false_rate, true_rate) in enumerate(curves[:MOST_CURVES]):
        style = ("-", "--")[place // 6]
        for axes in (whole, corner):
            axes.plot(
                false_rate,
                true_rate,
                label=f"{_plain(name)}: {area:.4f}",
                color=f"C{place % 6}",
                linestyle=style,
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
        whole.set_title("no class has both images and others")
    _save(figure, path)


def draw_reliability(truth: npt.NDArray[np.int64], predictions: Predictions, path: Path) -> None:
    """Draws accuracy against confidence with 95% intervals, and how many images have which one."""
    bins = calibration_bins(predictions.probabilities)
    confidence = predictions.probabilities.max(axis=1)
    correct = predictions.predicted == truth
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    accuracy = np.bincount(bins, correct, minlength=CALIBRATION_BINS)[filled] / counts[filled]
    mean = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)[filled] / counts[filled]
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    low, high = _wilson_interval(accuracy, counts[filled])
    upper.vlines(mean, low, high, color=_BLUE, alpha=0.5, linewidth=2)
    upper.plot(mean, accuracy, marker="o", color=_BLUE, linewidth=1, label="accuracy, 95% interval")
    error = expected_calibration_error(truth, predictions.probabilities)
    upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"expected calibration error {error:.4f}")
    upper.grid(alpha=0.3)
    upper.legend(loc="lower right", fontsize=9)
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    lower.bar(middles, counts, width=0.9 / CALIBRATION_BINS, color=_BLUE)
    lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1.01))
    # From a half, so that the bar of a single image is seen
    lower.set_yscale("log")
    lower.set_ylim(0.5, 2 * max(1, counts.max()))
    _save(figure, path)


def draw_mistakes(
    truth: npt.NDArray[np.int64],
    predictions: Predictions,
    read: Read,
    path: Path,
    most: int = 24,
) -> int:
    """Draws the images that were most surely taken for another class.

    Args:
        truth: True classes (N,).
        predictions: What was said about them.
        read: Gives the image of a place, (H, W, 3) uint8.
        path: The picture; removed where there is no mistake, so that none of an earlier evaluation
            is taken for this one's.
        most: At most so many images.

    Returns:
        How many mistakes there are.
    """
    wrong = np.flatnonzero(predictions.predicted != truth)
    if not len(wrong):
        path.unlink(missing_ok=True)
        return 0
    surest = wrong[np.argsort(-predictions.probabilities[wrong].max(axis=1), kind="stable")][:most]
    columns = min(_COLUMNS, max(3, len(surest)))
    rows = -(-len(surest) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.9 * rows + 0.5), layout="constrained")
    figure.suptitle(f"the surest {len(surest)} of {len(wrong)} mistakes in {len(truth)} images")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, place in zip(grid.flat, surest):
        _draw_mistake(axes, predictions, int(truth[place]), int(place), read)
    _save(figure, path)
    return len(wrong)


def _draw_mistake(axes: Axes, predictions: Predictions, label: int, place: int, read: Read) -> None:
    names, shares = predictions.class_names, predictions.probabilities[place]
    taken = int(predictions.predicted[place])
    axes.imshow(read(place))
    lines = (
        f"{_shorten(names[label])} ({shares[label]:.2f})",
        f"→ {_shorten(names[taken])} ({shares[taken]:.2f})",
        _shorten(Path(predictions.files[place]).name, 30),
    )
    axes.set_title(_plain("\n".join(lines)), fontsize=8, loc="left")


def _plain(text: str) -> str:
    """Keeps matplotlib from reading what is between two dollars as a formula."""
    return text.replace("$", r"\$")


def _shorten(text: str, length: int = 26) -> str:
    """Keeps both ends, which tell long names apart."""
    if len(text) <= length:
        return text
    head = length // 2 - 1
    return f"{text[:head]}…{text[head + 1 - length :]}"


def _wilson_interval(share: Array, count: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Wilson's 95% interval of a share (JASA 1927), which is sensible for a few images, too."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - half, middle + half


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)
