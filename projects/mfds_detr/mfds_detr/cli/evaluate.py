"""Measures a trained detector on labeled smears by COCO's metrics.

Examples:
  wbcnets evaluate smears --weights mfds_detr_tiny_bccd --data bccd_test
  wbcnets evaluate smears --weights output/mine/model_best.pth --data test.json:images

Writes evaluation.json, evaluation.md and the detections to the output folder. Any key of the
config may follow as KEY VALUE.
"""

import argparse
from pathlib import Path

from mfds_detr.api import Data, evaluate_detector
from mfds_detr.cli.train import BESIDE, add_config_file, add_overrides
from wbcnets.cli.options import add_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets evaluate smears``."""
    add_option(parser, "weights")
    add_option(
        parser,
        "data",
        nargs="+",
        required=True,
        metavar="NAME_OR_PATHS",
        help="names of prepared datasets, or ANNOTATIONS.json:IMAGE_FOLDER",
    )
    add_option(parser, "output", default=Path("output/evaluation"))
    add_config_file(parser, BESIDE)
    add_option(parser, "device")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates, and writes the output folder.

    Raises:
        WbcnetsError: if the weights, the config or the data are wrong.
    """
    data = [parse_data(text) for text in args.data]
    evaluate_detector(
        args.weights,
        data,
        output=args.output,
        config_file=args.config_file or None,
        device=args.device,
        overrides=args.opts,
    )
    print(f"{args.output / 'evaluation.md'}: written")
    return 0


def parse_data(text: str) -> Data:
    """Returns the name of a dataset, or its annotations and image folder."""
    json_file, colon, image_folder = text.rpartition(":")
    return (json_file, image_folder) if colon else text
