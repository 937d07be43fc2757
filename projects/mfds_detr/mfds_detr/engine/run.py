"""A run from its config: checks and registers the datasets, then trains or evaluates."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.checkpoint.weights import read_weights
from mfds_detr.data.datasets import (
    DatasetSource,
    choosing_sets,
    count_labels,
    most_objects,
    register_datasets,
    save_data_report,
)
from mfds_detr.engine.calibration import calibrate, detect_on, set_calibration
from mfds_detr.engine.evaluation import evaluate
from mfds_detr.engine.trainer import Trainer
from mfds_detr.modeling.build import build_detector
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.duplicates.leaks import apply_leak_policy, find_leaks, smear_sides
from wbcnets.engine.device import choose_device
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.outputs import OutputLock, claim_folder, write_readme
from wbcnets.losses.focal import class_fraction_alpha
from wbcnets.models.limits import limit_by_memory

logger = logging.getLogger("mfds_detr")
_README = """The training of a detector of cells in blood smears.

config.yaml         all settings; predictions read it beside the weights
model_best.pth      the weights with the highest AP on the first test set
model_final.pth     the weights at the end
model_0*.pth        checkpoints, from which the training is resumed
metrics.json        one line of losses and metrics per period
log.txt             what the terminal showed
evaluation.*        COCO's metrics of the newest evaluation
calibration.*       with images held out: what calibrated scores mean, and the threshold per class
datasets/           the checked annotations
"""
_EVALUATION_README = """The evaluation of a detector of cells in blood smears.

evaluation.*        COCO's metrics, for people and for programs
inference/          the detections as COCO results
data_report.json    boxes and images per dataset, with what was repaired and left out
config.yaml         all settings
log.txt             what the terminal showed
datasets/           the checked annotations
"""


@dataclass(frozen=True)
class RunOptions:
    """The part of a run that is not in its config.

    Args:
        datasets: Datasets by file, which ``DATASETS`` may name.
        eval_only: Whether ``MODEL.WEIGHTS`` is evaluated instead of trained.
        resume: Whether the newest checkpoint in ``OUTPUT_DIR`` is taken instead of
            ``MODEL.WEIGHTS``.
        allowed_changes: Config keys that may differ from those of the resumed checkpoint.
    """

    datasets: tuple[DatasetSource, ...] = ()
    eval_only: bool = False
    resume: bool = False
    allowed_changes: tuple[str, ...] = ()


def claim_output(cfg: CfgNode, options: RunOptions) -> OutputLock:
    """Makes ``OUTPUT_DIR`` the run's; called once, before the processes start.

    Returns:
        The lock to hold while they run.

    Raises:
        ConfigError: if the folder holds other files, an earlier run that is not resumed, or the
            data, is being written by another run, or is named like a number.
        CheckpointError: if the folder cannot be written.
    """
    _check_name(cfg.OUTPUT_DIR)
    inputs = [] if options.resume else [cfg.MODEL.WEIGHTS]
    data = [path for source in options.datasets for path in (source.json_file, source.image_folder)]
    if options.eval_only and not options.resume:
        return claim_folder(cfg.OUTPUT_DIR, "evaluate smears", inputs, data)
    earlier = () if options.resume else ("model_*.pth", "metrics.json")
    lock = claim_folder(cfg.OUTPUT_DIR, "train smears", inputs, data, earlier)
    write_readme(cfg.OUTPUT_DIR, "train smears", _README)
    return lock


def _check_name(folder: str) -> None:
    """Refuses a folder named like a number, which Detectron2's copy of the config turns into one.

    Raises:
        ConfigError: if it is.
    """
    try:
        float(folder)
    except ValueError:
        return
    raise ConfigError(
        f"{folder}: Detectron2 takes this folder for a number; write ./{folder}", setting="output"
    )


def run(cfg: CfgNode, options: RunOptions) -> dict[str, Any]:
    """Trains or evaluates, and writes ``OUTPUT_DIR``; called in each process.

    Returns:
        The metrics of each test set after an evaluation, see ``evaluate``; empty after a training.

    Raises:
        WbcnetsError: if the config, the data or the weights are wrong.
        FloatingPointError: if too many consecutive steps are not finite.
    """
    for name in ("mfds_detr", "wbcnets"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    class_names = prepare(cfg, options)
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    resumed = options.eval_only and options.resume and config.is_file()
    trained = config.read_bytes() if resumed else None
    default_setup(cfg, options)  # after the datasets, so that config.yaml holds what they decide
    if trained is not None and comm.is_main_process():
        # The config of the training: predictions read it
        write_atomically(config, lambda file: file.write(trained))
    if options.eval_only:
        results = evaluate_weights(cfg, class_names, options.resume)
        if comm.is_main_process() and not options.resume:
            write_readme(cfg.OUTPUT_DIR, "evaluate smears", _EVALUATION_README)
        return results
    _warn_of_frozen_random_layers(cfg)
    trainer = Trainer(cfg, class_names, options.allowed_changes)
    trainer.resume_or_load(resume=options.resume)
    trainer.train()
    if cfg.DATASETS.HELD_OUT:
        _finish(cfg, trainer.eval_model, class_names)
    return {}


def _finish(cfg: CfgNode, model: nn.Module, class_names: Sequence[str]) -> None:
    """Calibrates the best weights on the held-out images, and measures them on the test sets."""
    folder = Path(cfg.OUTPUT_DIR)
    AtomicCheckpointer(model, cfg.OUTPUT_DIR, class_names=class_names).load(
        str(folder / "model_best.pth")
    )
    comm.synchronize()
    found = detect_on(cfg, model, choosing_sets(cfg))
    if comm.is_main_process():
        points = calibrate(found, class_names, folder / "calibration")
        set_calibration(cfg, points)
        text = cfg.dump()
        write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
    if cfg.DATASETS.TEST:
        evaluate(cfg, model)


def _device_name(name: str) -> str:
    """Returns the CPU's name if no GPU is there; "cuda" stays, because each process has its own."""
    if name in ("auto", "cuda"):
        return choose_device("auto").type
    return str(choose_device(name))


def evaluate_weights(
    cfg: CfgNode, class_names: Sequence[str], resume: bool = False
) -> dict[str, Any]:
    """Evaluates ``MODEL.WEIGHTS``, or the newest checkpoint if ``resume``; see ``evaluate``."""
    return evaluate(cfg, load_for_evaluation(cfg, class_names, resume))


def load_for_evaluation(
    cfg: CfgNode, class_names: Sequence[str], resume: bool = False
) -> nn.Module:
    """Returns a model with ``MODEL.WEIGHTS``, or with the newest checkpoint if ``resume``."""
    model = build_detector(cfg, limit_by_memory())
    checkpointer = AtomicCheckpointer(
        model, cfg.OUTPUT_DIR, class_names=class_names, partial=cfg.MODEL.WEIGHTS_PARTIAL
    )
    checkpointer.load((checkpointer.newest() if resume else "") or cfg.MODEL.WEIGHTS)
    return model


def prepare(cfg: CfgNode, options: RunOptions) -> tuple[str, ...]:
    """Checks and registers the datasets, and fits the config to them.

    Returns:
        The classes in the order of the labels.

    Raises:
        ConfigError: if no dataset is named, or the config contradicts the datasets.
        DataError: if a dataset is unusable, a test image is in a training set, or the test sets of
            a training have no objects.
    """
    cfg.MODEL.DEVICE = _device_name(cfg.MODEL.DEVICE)
    known: tuple[str, ...] = ()
    if options.eval_only and cfg.MODEL.WEIGHTS:
        known = read_weights(cfg.MODEL.WEIGHTS).class_names
    train = () if options.eval_only else cfg.DATASETS.TRAIN
    cache = Path(cfg.OUTPUT_DIR) / "datasets" / f"rank{comm.get_rank()}"
    needed = "TEST" if options.eval_only else "TRAIN"
    if not cfg.DATASETS[needed]:
        raise ConfigError(f"DATASETS.{needed} is empty: name a dataset")
    datasets = register_datasets(
        train, cfg.DATASETS.TEST, options.datasets, cache, known, cfg.DATASETS.HELD_OUT
    )
    if comm.is_main_process():
        if not cfg.DATASETS.ALLOW_LEAKS:
            _refuse_leaks(datasets, train, cfg.DATASETS.TEST)
        save_data_report(Path(cfg.OUTPUT_DIR), datasets)
    class_names = known or next(iter(datasets.values())).class_names
    fit_config(cfg, class_names, train, tuple(datasets))
    if train:
        set_calibration(cfg, ())  # of other weights, if the config is that of an earlier training
        _require_objects(cfg)
    return tuple(class_names)


def _require_objects(cfg: CfgNode) -> None:
    """Raises DataError if the sets that choose the best weights have no objects."""
    sets = choosing_sets(cfg)
    if sets and not sum(count_labels(sets, cfg.MODEL.MFDS_DETR.NUM_CLASSES)):
        remedy = "name a test set with objects, or none (DATASETS.TEST)"
        if cfg.DATASETS.HELD_OUT:
            remedy = "hold out more images (DATASETS.HELD_OUT), or none"
        raise DataError(
            f"{', '.join(sets)}: no object is annotated, so no AP can tell the best weights; "
            + remedy
        )


def _refuse_leaks(
    datasets: Mapping[str, CocoDataset], train: Sequence[str], test: Sequence[str]
) -> None:
    """Raises DataError if a training set and another test set share images."""
    sources = {datasets[name].source for name in train}
    own = [name for name in test if datasets[name].source not in sources]
    if not own:
        return
    sides = [*((name, "training") for name in train), *((name, "test") for name in own)]
    images = [image for name, side in sides for image in smear_sides(datasets[name], side)]
    remedy = "set DATASETS.ALLOW_LEAKS True"
    for line in apply_leak_policy(find_leaks(images, "smears"), "refuse", "the datasets", remedy):
        logger.warning(f"perhaps in training and test: {line}")


def fit_config(
    cfg: CfgNode, class_names: Sequence[str], train: Sequence[str], datasets: Sequence[str]
) -> None:
    """Sets the keys that a config leaves to the registered datasets.

    Args:
        cfg: The config, changed in place and frozen.
        class_names: The classes in the order of the labels.
        train: The registered training sets.
        datasets: All registered datasets.

    Raises:
        ConfigError: if the config has another number of classes than the datasets.
    """
    model = cfg.MODEL.MFDS_DETR
    cfg.defrost()
    if model.NUM_CLASSES not in (0, len(class_names)):
        raise ConfigError(
            f"MODEL.MFDS_DETR.NUM_CLASSES={model.NUM_CLASSES}, but the datasets have "
            f"{len(class_names)} classes: {list(class_names)}; leave it at 0"
        )
    model.NUM_CLASSES = len(class_names)
    if train and model.LOSS.FOCAL_ALPHA_RULE != "constant":
        counts = count_labels(train, len(class_names))
        alpha = class_fraction_alpha(counts, model.LOSS.FOCAL_ALPHA_RULE)
        model.LOSS.FOCAL_ALPHA = [round(value, 6) for value in alpha.tolist()]
    most, densest = most_objects(datasets)
    if most > min(model.NUM_QUERIES, cfg.TEST.DETECTIONS_PER_IMAGE):
        logger.warning(
            f"{densest} holds {most} objects: more than MODEL.MFDS_DETR.NUM_QUERIES "
            f"({model.NUM_QUERIES}) or TEST.DETECTIONS_PER_IMAGE "
            f"({cfg.TEST.DETECTIONS_PER_IMAGE}); some cannot be found, so raise both"
        )
    cfg.freeze()


def _warn_of_frozen_random_layers(cfg: CfgNode) -> None:
    frozen = cfg.MODEL.BACKBONE.FREEZE_AT > 0 or cfg.MODEL.RESNETS.NORM == "FrozenBN"
    if cfg.MODEL.WEIGHTS or cfg.MODEL.BACKBONE.NAME != "build_resnet_backbone" or not frozen:
        return
    logger.warning(
        "MODEL.WEIGHTS is empty, and this config freezes parts of the backbone, which stay random. "
        f"Start from ImageNet: MODEL.WEIGHTS timm://resnet{cfg.MODEL.RESNETS.DEPTH} (or a local "
        "copy of that file), or train all: MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM BN"
    )
