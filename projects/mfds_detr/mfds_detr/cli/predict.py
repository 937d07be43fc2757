"""Finds and counts the cells in images of blood smears.

Examples:
  wbcnets predict smears --weights mfds_detr_tiny_bccd --input smears/ --output output/predictions
  wbcnets predict smears --weights output/mine/model_best.pth --input a.png "b/*.jpg" slides.zip

Writes predictions.json (COCO), counts.csv (cells per image and class) and overlays/ (images with
boxes). Images that cannot be read are listed in unreadable.csv, and the exit code is 1; all others
are processed. In a clone, python projects/mfds_detr/predict.py takes the same options.
"""

import argparse
import logging
import sys
from pathlib import Path

from mfds_detr.cli.train import BESIDE, add_config_file
from mfds_detr.predict_files import COMMAND, predict_files
from mfds_detr.predictor import LeukocytePredictor
from wbcnets.cli.options import add_option
from wbcnets.io.image_sources import find_image_sources
from wbcnets.io.outputs import check_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets predict smears``."""
    add_option(parser, "weights")
    add_config_file(parser, BESIDE)
    add_option(parser, "input")
    add_option(parser, "output", default=Path("output/predictions"))
    add_option(parser, "threshold")
    add_option(parser, "device")
    parser.add_argument("--no-overlays", action="store_true", help="draw no images")


def run(args: argparse.Namespace) -> int:
    """Predicts, and writes the output folder; 1 if images could not be read.

    Raises:
        WbcnetsError: if the weights, the config or an input is wrong.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    check_folder(args.output, COMMAND, args.input)
    sources = find_image_sources(args.input, leave_out=args.output)
    predictor = LeukocytePredictor(
        args.weights,
        device=args.device,
        threshold=args.threshold,
        config_file=args.config_file or None,
    )
    unreadable = predict_files(predictor, sources, args.output, not args.no_overlays)
    print(f"{len(sources) - unreadable} of {len(sources)} images: {args.output}/counts.csv")
    if unreadable:
        print(
            f"error: could not read {unreadable} of {len(sources)} images, "
            f"see {args.output}/unreadable.csv",
            file=sys.stderr,
        )
    return 1 if unreadable else 0
