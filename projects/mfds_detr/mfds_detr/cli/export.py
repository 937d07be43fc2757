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

import torch

from mfds_detr.api import calibrate_detector
from mfds_detr.checkpoint.weights import export_weights, read_config_of, read_weights
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
    config = read_config_of(read_weights(args.weights), args.config_file or None)
    if args.calibrate:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        data = [parse_data(text) for text in args.calibrate]
        stem = args.output.with_name(f"{args.output.stem}_calibration")
        config = calibrate_detector(
            args.weights, data, stem=stem, goal=args.goal, at_least=args.at_least, config=config
        )
    size = export_weights(args.weights, args.output, dtype, config)
    print(f"{args.output}: {size / 1e6:.1f} MB")
    return 0
