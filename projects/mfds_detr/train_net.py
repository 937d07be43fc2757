#!/usr/bin/env python
"""Trains and evaluates MFDS-DETR.

Train on your own COCO-format smears, on a GPU or a CPU:

  python projects/mfds_detr/train_net.py \\
      --config-file projects/mfds_detr/configs/mfds_detr_r50_base.yaml \\
      --dataset my_train=train.json:images --dataset my_test=test.json:images \\
      DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_test',)" OUTPUT_DIR output/mine

Go on after an interruption: the same command with --resume. Evaluate only:

  ... --eval-only MODEL.WEIGHTS output/mine/model_best.pth

Without a GPU, add MODEL.DEVICE cpu (it is chosen by itself where no GPU is found).
"""

import argparse
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.checkpoint.weight_files import read_weights
from mfds_detr.config import read_config
from mfds_detr.data.datasets import (
    count_labels,
    most_objects,
    parse_dataset_argument,
    register_datasets,
    save_data_report,
)
from mfds_detr.engine.trainer import Trainer, evaluate, guarded
from wbcnets.data.duplicates.leaks import refuse_leaks
from wbcnets.engine.distributed import DEFAULT_TIMEOUT
from wbcnets.errors import ConfigError
from wbcnets.losses.focal import class_fraction_alpha

logger = logging.getLogger("mfds_detr")


def load_config(args: argparse.Namespace) -> CfgNode:
    """The config of the command line: file, then overrides, then the device that there is.

    Raises:
        ConfigError: The file cannot be read, or a key or value is unknown.
    """
    misplaced = [word for word in args.opts if word.startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]}: options go before the config's KEY VALUE pairs")
    cfg = read_config(args.config_file, args.opts)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def prepare(cfg: CfgNode, args: argparse.Namespace) -> tuple[str, ...]:
    """Checks and registers the datasets, and fits the config to them.

    Returns:
        The class names in the model's order.
    """
    given = [parse_dataset_argument(text) for text in args.dataset]
    known: tuple[str, ...] = ()
    if args.eval_only and cfg.MODEL.WEIGHTS:
        known = tuple(read_weights(cfg.MODEL.WEIGHTS).get("class_names", ()))
    train = () if args.eval_only else cfg.DATASETS.TRAIN
    cache = Path(cfg.OUTPUT_DIR) / "datasets" / f"rank{comm.get_rank()}"
    datasets = register_datasets(train, cfg.DATASETS.TEST, given, cache, known)
    own = [name for name in cfg.DATASETS.TEST if name not in train]
    if train and own and not cfg.DATASETS.ALLOW_LEAKS and comm.is_main_process():
        trained, tested = ([datasets[name] for name in names] for names in (train, own))
        for line in refuse_leaks(trained, tested, "DATASETS.ALLOW_LEAKS True"):
            logger.warning(f"perhaps in training and test: {line}")
    if comm.is_main_process():
        save_data_report(Path(cfg.OUTPUT_DIR), datasets)
    if not datasets:
        raise ConfigError("DATASETS.TRAIN and DATASETS.TEST are both empty")
    class_names = known or next(iter(datasets.values())).class_names
    fit_config(cfg, class_names, train, tuple(datasets))
    return tuple(class_names)


def fit_config(
    cfg: CfgNode, class_names: tuple[str, ...], train: Sequence[str], datasets: Sequence[str]
) -> None:
    """Takes from the registered datasets what a config leaves to them.

    Args:
        cfg: The config, changed in place and frozen.
        class_names: The classes in the model's order.
        train: The registered training sets.
        datasets: All registered datasets.

    Raises:
        ConfigError: The config's number of classes is not the datasets'.
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


def main(args: argparse.Namespace) -> None:
    """One process's work: set up, then train or evaluate."""
    guarded(run, args)


def run(args: argparse.Namespace) -> None:
    """Trains or evaluates as the command line says."""
    cfg = load_config(args)
    for name in ("mfds_detr", "wbcnets"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    class_names = prepare(cfg, args)
    default_setup(cfg, args)  # after the datasets, so that config.yaml tells what was trained
    if args.eval_only:
        model = build_model(cfg)
        checkpointer = AtomicCheckpointer(
            model, cfg.OUTPUT_DIR, class_names=class_names, partial=cfg.MODEL.WEIGHTS_PARTIAL
        )
        newest = checkpointer.newest() if args.resume else ""
        checkpointer.load(newest or cfg.MODEL.WEIGHTS)
        evaluate(cfg, model)
        return
    warn_of_frozen_noise(cfg)
    trainer = Trainer(cfg, class_names, args.allow_config_change)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def warn_of_frozen_noise(cfg: CfgNode) -> None:
    """Says so where layers that stay as they are would stay random."""
    frozen = cfg.MODEL.BACKBONE.FREEZE_AT > 0 or cfg.MODEL.RESNETS.NORM == "FrozenBN"
    if cfg.MODEL.WEIGHTS or cfg.MODEL.BACKBONE.NAME != "build_resnet_backbone" or not frozen:
        return
    logger.warning(
        "MODEL.WEIGHTS is empty, and this config freezes parts of the backbone, which stay random. "
        f"Start from ImageNet: MODEL.WEIGHTS timm://resnet{cfg.MODEL.RESNETS.DEPTH} (or a local "
        "file of it), or train all: MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM BN"
    )


def build_parser() -> argparse.ArgumentParser:
    """Detectron2's usual flags, and `--dataset`."""
    parser = default_argument_parser(epilog=__doc__)
    parser.description = "Train and evaluate MFDS-DETR, a detector of leukocytes in blood smears."
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="make a COCO-format dataset known under a name; may be given several times",
    )
    parser.add_argument(
        "--allow-config-change",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume, go on although this config key differs from the checkpoint's",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long one of several processes waits for the others (default: %(default)g)",
    )
    return parser


if __name__ == "__main__":
    arguments = build_parser().parse_args()
    try:
        launch(
            main,
            arguments.num_gpus,
            arguments.num_machines,
            arguments.machine_rank,
            arguments.dist_url if arguments.num_machines > 1 else "auto",
            (arguments,),
            timedelta(seconds=arguments.timeout),
        )
    except ProcessExitedException as error:
        # The process has said what was wrong; a traceback of its launch would only hide that
        raise SystemExit(error.exit_code) from None
