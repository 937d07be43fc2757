"""Python functions that load, train and evaluate a detector."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mfds_detr.checkpoint.weights import read_config_of, read_weights
from mfds_detr.config import read_config
from mfds_detr.data.datasets import DatasetSource
from mfds_detr.engine.calibration import calibrate, detect_on, set_calibration
from mfds_detr.engine.run import (
    RunOptions,
    claim_output,
    evaluate_weights,
    load_for_evaluation,
    prepare,
    run,
)
from mfds_detr.predictor import Detections, LeukocytePredictor
from wbcnets.evaluation.operating_points import Goal
from wbcnets.io.outputs import check_folder, claim_file

__all__ = [
    "Detections",
    "calibrate_detector",
    "evaluate_detector",
    "load_detector",
    "train_detector",
]

PathLike = str | os.PathLike[str]
Data = str | tuple[PathLike, PathLike]


# ``load_detector("mfds_detr_tiny_bccd").predict(images)``
load_detector = LeukocytePredictor


def train_detector(
    train: Data | list[Data],
    test: Data | list[Data] | None = None,
    *,
    output: PathLike,
    config_file: PathLike = "mfds_detr_tiny_base",
    weights: PathLike | None = None,
    device: str = "auto",
    resume: bool = False,
    overrides: Sequence[Any] = (),
) -> Path:
    """Trains a detector, and returns its weights for ``load_detector``.

    Args:
        train: The name of a prepared dataset, a pair of a COCO annotation file and the folder of
            its images, or a list of these.
        test: The same for the test sets, on which the best checkpoint is chosen, or None.
        output: The folder to write.
        config_file: A YAML file, or the name of a config that comes with the project.
        weights: The weights to start from, see ``MODEL.WEIGHTS``; by default those of the config.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        resume: Whether to continue from the newest checkpoint in ``output``.
        overrides: Config keys and values in turn, such as ``["SOLVER.MAX_ITER", 1000]``.

    Returns:
        The path of ``model_best.pth``, or of ``model_final.pth`` if there is no test set.

    Raises:
        WbcnetsError: if the config, the data or the weights are wrong.
        FloatingPointError: if too many consecutive steps are not finite.
    """
    cfg = read_config(config_file, overrides)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = os.fspath(output), device
    if weights is not None:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    given = _register(cfg, "TRAIN", train) + _register(cfg, "TEST", test)
    options = RunOptions(given, resume=resume)
    with claim_output(cfg, options):
        run(cfg, options)
    return Path(output) / ("model_final.pth" if test is None else "model_best.pth")


def evaluate_detector(
    weights: PathLike,
    data: Data | list[Data],
    *,
    output: PathLike | None = None,
    config_file: PathLike | None = None,
    device: str = "auto",
    overrides: Sequence[Any] = (),
) -> dict[str, dict[str, float]]:
    """Measures a detector by COCO's metrics.

    Args:
        weights: See ``load_detector``.
        data: The name of a prepared dataset, a pair of a COCO annotation file and the folder of
            its images, or a list of these.
        output: The folder to write, or None.
        config_file: By default the config in the weights, or else ``NAME.yaml`` or ``config.yaml``
            beside them.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        overrides: Config keys and values in turn, such as ``["TEST.NMS_IOU", 0.7]``.

    Returns:
        For each test set AP, AP50, AP75, AP by size and AP by class, in percent. Sets given by file
        are called ``test``, or ``test_0``, ``test_1``, ...

    Raises:
        WbcnetsError: if the weights, the config or the data are wrong.
    """
    if output is not None:
        check_folder(output, "evaluate smears", [weights])
    cfg = read_config_of(read_weights(weights), config_file, overrides)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = os.fspath(weights), device
    options = RunOptions(_register(cfg, "TEST", data), eval_only=True)
    if output is not None:
        cfg.OUTPUT_DIR = os.fspath(output)
        with claim_output(cfg, options):
            return run(cfg, options)
    with tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR:
        return evaluate_weights(cfg, prepare(cfg, options))


def calibrate_detector(
    weights: PathLike,
    data: Data | list[Data],
    *,
    stem: PathLike,
    goal: Goal = "f1",
    at_least: float = 0.0,
    config: CfgNode | None = None,
    device: str = "auto",
) -> CfgNode:
    """Calibrates a detector's scores, and chooses the score from which each class is reported.

    Args:
        weights: See ``load_detector``.
        data: Labeled smears that were not trained on, see ``evaluate_detector``.
        stem: The path of a report and a picture, without their suffixes.
        goal: "f1" for the best F1 score; "precision" or "recall" for at least a wanted one.
        at_least: The wanted precision or recall, in (0, 1].
        config: By default that of the weights.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Returns:
        The config with the calibration, for ``export_weights``.

    Raises:
        WbcnetsError: if the config, the data or the weights are wrong.
    """
    stem = Path(stem)
    cfg = read_config_of(read_weights(weights)) if config is None else config.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = os.fspath(weights), device
    given = cfg.TEST.CALIBRATION
    given.SLOPES, given.OFFSETS, given.THRESHOLDS = [], [], []
    options = RunOptions(_register(cfg, "TEST", data), eval_only=True)
    report, picture = (stem.with_name(stem.name + suffix) for suffix in (".json", ".png"))
    with claim_file(report), claim_file(picture):
        with tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR:
            class_names = prepare(cfg, options)
            model = load_for_evaluation(cfg, class_names)
            found = detect_on(cfg, model, cfg.DATASETS.TEST)
        set_calibration(cfg, calibrate(found, class_names, stem, goal, at_least))
    return cfg


def _register(cfg: CfgNode, key: str, data: Data | list[Data] | None) -> tuple[DatasetSource, ...]:
    """Names data in ``DATASETS``; returns the sets given by file, under names made of ``key``."""
    listed = data if isinstance(data, list) else [] if data is None else [data]
    names, given = [], []
    for index, entry in enumerate(listed):
        name = entry
        if not isinstance(entry, str):
            name = key.lower() if len(listed) == 1 else f"{key.lower()}_{index}"
            given.append(DatasetSource(name, *map(Path, entry)))
        names.append(name)
    cfg.DATASETS[key] = tuple(names)
    return tuple(given)
