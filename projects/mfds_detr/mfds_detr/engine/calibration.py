"""Calibrates a detector's scores on validation images, and chooses a threshold for each class."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import nn

from mfds_detr.engine.evaluation import run_evaluator
from wbcnets.errors import DataError
from wbcnets.evaluation.operating_points import (
    LEAST_SCORE,
    Calibration,
    Goal,
    OperatingPoint,
    ScoredDetections,
    choose_threshold,
    detection_calibration_error,
    fit_calibration,
    measure,
)
from wbcnets.evaluation.plots import plot_reliability
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.strict_json import write_json

logger = logging.getLogger("mfds_detr.engine.calibration")
# For a class that the validation images do not hold
_UNKNOWN = 0.3


class ClassScores(NamedTuple):
    """The calibration of a class, and its operating point."""

    name: str
    calibration: Calibration
    point: OperatingPoint


def detect_on(cfg: CfgNode, model: nn.Module, datasets: Sequence[str]) -> list[ScoredDetections]:
    """Detects on registered datasets, and matches the detections with the objects.

    Returns:
        The detections of each class, in the order of the labels; empty outside the main process.
    """
    parts = []
    for name in datasets:
        evaluator = run_evaluator(cfg, model, name)
        if comm.is_main_process():
            parts.append(match_detections(evaluator.evaluated, name))
    return [_join(parts_of_class) for parts_of_class in zip(*parts)]


def match_detections(evaluated: COCOeval | None, dataset: str) -> list[ScoredDetections]:
    """Returns the detections of each class; correct ones overlap an object by an IoU of 0.5.

    Args:
        evaluated: COCO's account of the detections; None without any.
        dataset: The registered dataset.
    """
    if evaluated is None:
        return _match_nothing(dataset)
    params = evaluated.params
    step = int(np.argmin(np.abs(np.asarray(params.iouThrs) - 0.5)))
    images, areas = len(params.imgIds), len(params.areaRng)
    found = {}
    for index, category in enumerate(params.catIds):
        start = index * images * areas  # the first range of areas is "all"
        found[category] = _match_class(evaluated.evalImgs[start : start + images], step)
    ids = MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id
    return [found[category] for category, _ in sorted(ids.items(), key=lambda pair: pair[1])]


def _match_nothing(dataset: str) -> list[ScoredDetections]:
    records = DatasetCatalog.get(dataset)
    classes = len(MetadataCatalog.get(dataset).thing_classes)
    objects = np.zeros((classes, len(records)), dtype=np.int64)
    for image, record in enumerate(records):
        for annotation in record["annotations"]:
            objects[annotation["category_id"], image] += not annotation["iscrowd"]
    nothing = (np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    return [ScoredDetections(*nothing, in_images) for in_images in objects]


def _match_class(entries: Sequence[dict | None], step: int) -> ScoredDetections:
    scores, correct, images, objects = [], [], [], []
    for image, entry in enumerate(entries):
        if entry is None:  # neither objects nor detections
            objects.append(0)
            continue
        counted = ~np.asarray(entry["dtIgnore"][step], dtype=bool)
        scores.append(np.asarray(entry["dtScores"], dtype=np.float64)[counted])
        correct.append(np.asarray(entry["dtMatches"][step])[counted] > 0)
        images.append(np.full(int(counted.sum()), image))
        objects.append(int((np.asarray(entry["gtIgnore"]) == 0).sum()))
    return ScoredDetections(
        np.concatenate([np.zeros(0), *scores]),
        np.concatenate([np.zeros(0, dtype=bool), *correct]),
        np.concatenate([np.zeros(0, dtype=np.int64), *images]),
        np.array(objects, dtype=np.int64),
    )


def _join(parts: Sequence[ScoredDetections]) -> ScoredDetections:
    starts = np.cumsum([0, *(len(part.objects) for part in parts)])
    return ScoredDetections(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.correct for part in parts]),
        np.concatenate([part.images + start for part, start in zip(parts, starts)]),
        np.concatenate([part.objects for part in parts]),
    )


def calibrate(
    found: Sequence[ScoredDetections],
    class_names: Sequence[str],
    stem: Path,
    goal: Goal = "f1",
    at_least: float = 0.0,
) -> list[ClassScores]:
    """Calibrates scores and chooses thresholds; writes ``STEM.json`` and ``STEM.png``.

    Args:
        found: The validation detections of each class.
        class_names: The classes.
        stem: The path of the files, without their suffixes.
        goal: See ``choose_threshold``.
        at_least: The wanted precision or recall.
    """
    chosen, calibrated = [], []
    for name, detections in zip(class_names, found):
        calibration = fit_calibration(detections)
        detections = detections._replace(scores=calibration.apply(detections.scores))
        calibrated.append(detections)
        try:
            point = choose_threshold(detections, goal, at_least)
        except DataError as error:
            logger.warning(f"{name}: {error}; its threshold is {_UNKNOWN}")
            point = measure(detections, _UNKNOWN)
        chosen.append(ClassScores(name, calibration, point))
    before, after = detection_calibration_error(found), detection_calibration_error(calibrated)
    write_json(
        {
            "images": len(found[0].objects),
            "goal": goal,
            "at_least": at_least,
            "detection_calibration_error": {"before": _number(before), "after": _number(after)},
            "classes": {
                scores.name: {**scores.calibration._asdict(), **vars(scores.point)}
                for scores in chosen
            },
        },
        stem.with_name(f"{stem.name}.json"),
    )
    _draw(calibrated, chosen, stem.with_name(f"{stem.name}.png"))
    rows = [[scores.name, *vars(scores.point).values()] for scores in chosen]
    header = ["class", "threshold", "precision", "recall", "count error"]
    logger.info(
        f"Thresholds of {len(found[0].objects)} validation images; calibration error {before:.3f}, "
        f"calibrated {after:.3f}:\n" + tabulate(rows, header, floatfmt=".3f")
    )
    return chosen


def set_calibration(cfg: CfgNode, chosen: Sequence[ClassScores]) -> None:
    """Enters calibration and thresholds into a config; those of no class to remove them."""
    cfg.defrost()
    values = cfg.TEST.CALIBRATION
    values.SLOPES = [round(scores.calibration.slope, 6) for scores in chosen]
    values.OFFSETS = [round(scores.calibration.offset, 6) for scores in chosen]
    values.THRESHOLDS = [round(scores.point.threshold, 6) for scores in chosen]
    cfg.freeze()


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def _draw(found: Sequence[ScoredDetections], chosen: Sequence[ClassScores], path: Path) -> None:
    """Draws reliability and F1 over the threshold for each class."""
    figure = Figure(figsize=(4.5 * len(chosen), 9), layout="constrained")
    axes = figure.subplots(3, len(chosen), squeeze=False, height_ratios=(3, 1, 2))
    thresholds = np.linspace(0, 1, 101)
    for column, (detections, scores) in enumerate(zip(found, chosen)):
        seen = detections.scores >= LEAST_SCORE
        upper, lower, curve = axes[:, column]
        if seen.any():
            share = ("share of correct ones", "detections")
            plot_reliability(
                (upper, lower), detections.correct[seen], detections.scores[seen], share
            )
        upper.set_title(f"{scores.name}: {upper.get_title()}")
        points = [measure(detections, float(threshold)) for threshold in thresholds]
        for name in ("f1", "precision", "recall"):
            curve.plot(thresholds, [getattr(point, name) for point in points], label=name)
        curve.axvline(scores.point.threshold, color="0.4", linestyle="--", label="threshold")
        curve.set(xlabel="threshold", xlim=(0, 1), ylim=(0, 1.02))
        curve.grid(alpha=0.3)
        curve.legend(fontsize=8)
    FigureCanvasAgg(figure)
    write_atomically(path, lambda file: figure.savefig(file, dpi=100))
