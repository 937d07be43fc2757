"""Writes a training checkpoint as a small file: safetensors in half precision.

Example:
  wbcnets export smears --weights output/mine/model_best.pth --output mine.safetensors

Takes the moving average if there is one, without optimizer and progress. The class names and the
config are in the file: prediction, evaluation and load_detector need nothing else. In a clone,
python projects/mfds_detr/export_weights.py takes the same options.
"""

import argparse

import torch

from mfds_detr.checkpoint.weights import export_weights
from mfds_detr.cli.train import BESIDE, add_config_file
from wbcnets.cli.options import add_option
from wbcnets.errors import ConfigError


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


def run(args: argparse.Namespace) -> int:
    """Exports, and prints the size of the file.

    Raises:
        CheckpointError: if the checkpoint is unusable or the file cannot be written.
        ConfigError: if the output is no ``.safetensors`` file.
    """
    if args.output.suffix != ".safetensors":
        raise ConfigError(f"{args.output}: must end in .safetensors", setting="output")
    dtype = getattr(torch, args.dtype)
    size = export_weights(args.weights, args.output, dtype, args.config_file or None)
    print(f"{args.output}: {size / 1e6:.1f} MB")
    return 0
