"""An evaluation from weights and data to a folder of figures, tables and pictures."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from wbcnets.data.cells.dataset import CellDataset
from wbcnets.data.cells.loading import CellManifest
from wbcnets.engine.device import choose_device
from wbcnets.errors import DataError
from wbcnets.evaluation.classifier import Classifier
from wbcnets.evaluation.metrics import ClassifierMetrics, judge
from wbcnets.evaluation.plots import draw_confusion, draw_mistakes, draw_reliability, draw_roc
from wbcnets.evaluation.predictions import Predictions, predict
from wbcnets.evaluation.significance import Comparison
from wbcnets.io.images import read_image

EXPLANATION = """What a classifier does on images whose classes are known.

report.md             the figures with their intervals, per class, and how they were made
metrics.json          the same for programs
metrics.csv           a row per figure
predictions.csv       a row per image: true and predicted class, all probabilities
confusion_matrix.png  which classes are taken for which
roc.png               sensitivity against specificity, per class
reliability.png       whether a probability of 0.9 is right nine times in ten
worst_mistakes.png    the images most surely taken for another class; missing without mistakes
disagreements.csv     with --compare: images that the two classifiers take for different classes
"""


@dataclass(frozen=True)
class Setting:
    """How images are put to the model.

    Attributes:
        batch_size: Images at once.
        workers: Processes that load them.
        device: "auto", "cpu" or "cuda".
        amp: "none", "bfloat16" or "float16".
        views: "none", "flips" or "d4".
    """

    batch_size: int = 64
    workers: int = 2
    device: str = "auto"
    amp: str = "none"
    views: str = "none"


def predict_manifest(
    classifier: Classifier, manifest: CellManifest, setting: Setting
) -> Predictions:
    """Probabilities of all images of a manifest whose classes are the classifier's."""
    dataset = CellDataset(manifest, classifier.preprocessing(), classifier.mean, classifier.std)
    loader = DataLoader(
        dataset, batch_size=setting.batch_size, num_workers=setting.workers, shuffle=False
    )
    device = choose_device(setting.device)
    probabilities, labels = predict(
        classifier.model.to(device),
        loader,
        device=device,
        amp=setting.amp,
        views=setting.views,
        total=len(loader),
    )
    files = tuple(image.file for image in manifest.images)
    return Predictions(classifier.class_names, files, probabilities, labels.astype(np.int64))


def evaluate_predictions(
    predictions: Predictions, manifest: CellManifest, resamples: int
) -> tuple[ClassifierMetrics, npt.NDArray[np.int64]]:
    """The figures of predictions on a manifest, and the true classes.

    Raises:
        DataError: The predictions have no true classes.
    """
    if predictions.labels is None:
        raise DataError("predictions without true classes cannot be judged")
    groups = [image.group for image in manifest.images]
    judgement = judge(
        predictions.labels,
        predictions.probabilities,
        predictions.class_names,
        groups=groups,
        resamples=resamples,
    )
    return judgement, predictions.labels


def write_evaluation(
    output: Path,
    predictions: Predictions,
    manifest: CellManifest,
    judgement: ClassifierMetrics,
    heading: Sequence[str],
    comparison: Comparison | None = None,
) -> None:
    """Writes all files of an evaluation into a folder.

    Args:
        output: The folder; made where it is missing.
        predictions: With true classes.
        manifest: The images, in the same order.
        judgement: The figures.
        heading: Lines for the report: what was evaluated, and by which command.
        comparison: With another classifier, where there is one.
    """
    output.mkdir(parents=True, exist_ok=True)
    truth = predictions.labels
    if truth is None:
        raise DataError("predictions without true classes cannot be written as an evaluation")
    predictions.to_csv(output / "predictions.csv")
    content = {"about": list(heading), "images": len(predictions.files), **judgement.as_dict()}
    if comparison is not None:
        content["comparison"] = vars(comparison)
    (output / "metrics.json").write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _write_csv(judgement, output / "metrics.csv")
    (output / "report.md").write_text(
        report(judgement, heading, comparison) + "\n", encoding="utf-8"
    )
    draw_confusion(truth, predictions, output / "confusion_matrix.png")
    draw_roc(truth, predictions, output / "roc.png")
    draw_reliability(truth, predictions, output / "reliability.png")
    draw_mistakes(
        truth,
        predictions,
        lambda place: read_image(manifest.path(manifest.images[place])),
        output / "worst_mistakes.png",
    )
    (output / "README.txt").write_text(EXPLANATION)


def report(
    judgement: ClassifierMetrics, heading: Sequence[str], comparison: Comparison | None = None
) -> str:
    """The figures as Markdown."""
    lines = ["# Evaluation", "", *[f"{line}  " for line in heading], ""]
    lines += ["| figure | value | 95% interval |", "| --- | ---: | --- |"]
    for name, value in judgement.overall.items():
        interval = _interval(judgement.intervals.get(name))
        lines.append(f"| {name.replace('_', ' ')} | {_figure(value)} | {interval} |")
    columns = list(next(iter(judgement.per_class.values())))
    lines += ["", f"| class | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in judgement.per_class.items():
        ends = judgement.class_intervals.get(name, {})
        cells = [f"{_figure(row[key])} {_interval(ends.get(key))}".strip() for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if judgement.bootstrap:
        how = judgement.bootstrap
        lines += [
            "",
            f"Intervals: percentiles of {how['resamples']} bootstrap resamples of {how['units']} "
            f"{how['unit']}s, seed {how['seed']}.",
        ]
    if comparison is not None:
        lines += [
            "",
            f"Compared on {comparison.images} images: this classifier alone gets "
            f"{comparison.only_first} right, the other alone {comparison.only_second}; McNemar's "
            f"exact test gives p = {comparison.p_value:.4g}. {comparison.not_shared} images are in "
            "one of the two tables only.",
        ]
    return "\n".join([*lines, *(["", *judgement.notes] if judgement.notes else [])])


def _interval(ends: tuple[float, float] | None) -> str:
    return f"({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""


def _figure(value: float | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _write_csv(judgement: ClassifierMetrics, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["figure", "class", "value", "low", "high"])
        for name, value in judgement.overall.items():
            writer.writerow([name, "", value, *judgement.intervals.get(name, ("", ""))])
        for class_name, row in judgement.per_class.items():
            for name, value in row.items():
                ends = judgement.class_intervals.get(class_name, {}).get(name, ("", ""))
                writer.writerow([name, class_name, value, *ends])
