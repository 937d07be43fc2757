"""The folder of an evaluation: report, metrics, predictions and plots."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wbcnets.data.cells.manifest import CellManifest
from wbcnets.evaluation.metrics import ClassifierMetrics, Interval
from wbcnets.evaluation.plots import draw_confusion, draw_mistakes, draw_reliability, draw_roc
from wbcnets.evaluation.predictions import Predictions
from wbcnets.evaluation.significance import McNemarResult, mcnemar_test, write_disagreements
from wbcnets.evaluation.weighted_metrics import rejection_curve
from wbcnets.io.atomic_files import write_text
from wbcnets.io.images import read_image
from wbcnets.io.outputs import write_readme
from wbcnets.io.tables import write_csv

REPORT = "report.md"
COMMAND = "evaluate cells"
_README = """The evaluation of a classifier on labeled images.

report.md             metrics with intervals, overall and per class, and how they were computed
metrics.json          the same for programs
metrics.csv           one row per metric
predictions.csv       one row per image: true and predicted class, all probabilities
confusion_matrix.png  which classes are mistaken for which
roc.png               sensitivity against specificity, per class
reliability.png       whether a probability of 0.9 is right nine times out of ten
rejection.csv         accuracy of the surest images, by the fraction of images that is kept
worst_mistakes.png    the mistakes with the highest probability; missing if there are no mistakes
disagreements.csv     only after a comparison: images for which the two classifiers disagree
"""


def write_evaluation(
    folder: Path,
    manifest: CellManifest,
    predictions: Predictions,
    metrics: ClassifierMetrics,
    about: Sequence[str],
    baseline: Predictions | None = None,
) -> None:
    """Writes all files of an evaluation.

    Args:
        folder: The command's, see ``claim_folder``.
        manifest: The images with their true classes.
        predictions: In the order of the manifest.
        metrics: Of the predictions.
        about: Lines that say what was evaluated and how.
        baseline: The predictions of another classifier, to compare with.

    Raises:
        DataError: if the predictions cannot be compared with the baseline; nothing is written.
        CheckpointError: if a file cannot be written.
    """
    comparison = None if baseline is None else mcnemar_test(predictions, baseline)
    predictions.to_csv(folder / "predictions.csv")
    content = {"about": list(about), "images": len(predictions.files), **metrics.as_dict()}
    if comparison is not None:
        content["comparison"] = vars(comparison)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "metrics.json", f"{text}\n")
    write_csv(folder / "metrics.csv", _metric_rows(metrics))
    report = format_report(metrics, about, comparison)
    write_text(folder / REPORT, f"{report}\n")
    truth = np.asarray(manifest.labels, dtype=np.int64)
    draw_confusion(truth, predictions, folder / "confusion_matrix.png")
    draw_roc(truth, predictions, folder / "roc.png")
    draw_reliability(truth, predictions, folder / "reliability.png")
    write_csv(folder / "rejection.csv", _rejection_rows(truth, predictions))
    draw_mistakes(
        truth,
        predictions,
        lambda index: read_image(manifest.path(manifest.images[index])),
        folder / "worst_mistakes.png",
    )
    if baseline is None:
        (folder / "disagreements.csv").unlink(missing_ok=True)  # of an earlier comparison
    else:
        write_disagreements(predictions, baseline, folder / "disagreements.csv")
    write_readme(folder, COMMAND, _README)


def format_report(
    metrics: ClassifierMetrics, about: Sequence[str], comparison: McNemarResult | None = None
) -> str:
    """Returns the metrics as Markdown."""
    lines = ["# Evaluation", "", *[f"{line}  " for line in about], ""]
    lines += ["| metric | value | 95% interval |", "| --- | ---: | --- |"]
    for name, value in metrics.overall.items():
        interval = _format_interval(metrics.intervals.get(name))
        lines.append(f"| {name.replace('_', ' ')} | {_format_value(value)} | {interval} |")
    columns = list(next(iter(metrics.per_class.values())))
    lines += ["", f"| class | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in metrics.per_class.items():
        ends = metrics.per_class_intervals.get(name, {})
        cells = [f"{_format_value(row[key])} {_format_interval(ends.get(key))}" for key in columns]
        lines.append(f"| {name} | {' | '.join(cell.strip() for cell in cells)} |")
    if metrics.bootstrap:
        lines += [
            "",
            "Intervals: percentiles of {resamples} bootstrap resamples of {units} {unit}s, seed "
            "{seed}.".format(**metrics.bootstrap),
        ]
    if comparison is not None:
        lines += [
            "",
            f"Comparison on {comparison.images} images: only this classifier is right on "
            f"{comparison.only_first}, only the other on {comparison.only_second}; McNemar's "
            f"exact test gives p = {comparison.p_value:.4g}. {comparison.not_shared} images are in "
            "one of the two tables only.",
        ]
    return "\n".join([*lines, *(["", *metrics.notes] if metrics.notes else [])])


def _format_interval(ends: Interval | None) -> str:
    return f"({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""


def _format_value(value: float | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _rejection_rows(
    truth: npt.NDArray[np.int64], predictions: Predictions
) -> Iterator[Sequence[object]]:
    """Yields the rejection curve at whole percentages of coverage."""
    yield "coverage", "accuracy", "threshold"
    _, accuracy, threshold = rejection_curve(predictions.probabilities, truth)
    for percent in range(1, 101):
        index = max(0, -(-percent * len(truth) // 100) - 1)
        yield f"{percent / 100:.2f}", f"{accuracy[index]:.6f}", f"{threshold[index]:.6f}"


def _metric_rows(metrics: ClassifierMetrics) -> Iterator[Sequence[object]]:
    yield "metric", "class", "value", "low", "high"
    tables = [("", metrics.overall, metrics.intervals)]
    for name, row in metrics.per_class.items():
        tables.append((name, row, metrics.per_class_intervals.get(name, {})))
    for class_name, values, intervals in tables:
        for metric, value in values.items():
            yield metric, class_name, value, *intervals.get(metric, ("", ""))
