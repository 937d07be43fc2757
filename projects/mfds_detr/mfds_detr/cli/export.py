"""Writes a training checkpoint as a small file: safetensors in half precision.

Examples:
  wbcnets export smears --weights output/mine/model_best.pth --output mine.safetensors
  wbcnets export smears --weights mfds_detr_tiny_bccd --output ours.safetensors \\
      --calibrate val.json:images --goal recall --at-least 0.98

Takes the moving average if there is one, without optimizer and progress. The class names and the
config are in the file: prediction, evaluation and load_detector need nothing else. With --calibrate
the file also says what its scores mean, and from which score on predictions report a cell; pictures
of both are drawn beside it. In a clone, python projects/mfds_detr/export_weights.py takes the same
options.
"""

import argparse
import logging
from functools import partial

import torch
from detectron2.config import CfgNode

from mfds_detr.api import calibrate_detector
from mfds_detr.checkpoint.weights import Weights, export_weights, read_config_of
from mfds_detr.cli.evaluate import parse_data
from mfds_detr.cli.train import BESIDE, add_config_file
from wbcnets.cli.options import add_option, probability
from wbcnets.errors import ConfigError
from wbcnets.evaluation.operating_points import GOALS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets export smears``."""
    add_option(parser, "weights")
    add_config_file(parser, BESIDE)
    add_option(parser, "output", required=True, metavar="FILE.safetensors", help="the new file")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="the type of the weights",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="NAME_OR_PATHS",
        help="labeled smears that were not trained on: prepared datasets, or "
        "ANNOTATIONS.json:IMAGE_FOLDER",
    )
    parser.add_argument(
        "--goal",
        choices=GOALS,
        default="f1",
        help="what the thresholds should reach: the best F1, or a precision or recall",
    )
    parser.add_argument(
        "--at-least", type=probability, default=0.0, help="the wanted precision or recall"
    )


def run(args: argparse.Namespace) -> int:
    """Exports, and prints the size of the file.

    Raises:
        CheckpointError: if the checkpoint is unusable or the file cannot be written.
        ConfigError: if the output is no ``.safetensors`` file.
    """
    if args.output.suffix != ".safetensors":
        raise ConfigError(f"{args.output}: must end in .safetensors", setting="output")
    dtype = getattr(torch, args.dtype)
    size = export_weights(args.weights, args.output, dtype, partial(_read_config, args))
    print(f"{args.output}: {size / 1e6:.1f} MB")
    return 0


def _read_config(args: argparse.Namespace, weights: Weights) -> CfgNode:
    """Returns the config of the weights, calibrated if asked for."""
    config = read_config_of(weights, args.config_file or None)
    if not args.calibrate:
        return config
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return calibrate_detector(
        args.weights,
        [parse_data(text) for text in args.calibrate],
        stem=args.output.with_name(f"{args.output.stem}_calibration"),
        goal=args.goal,
        at_least=args.at_least,
        config=config,
    )
