"""Classifies cell images into a table of probabilities.

unreadable.csv beside the table lists the images that cannot be read; the exit code is then 1.
review.csv lists those that a person should look at: unsure ones, and crops without a leukocyte, as
far as the weights were made to tell (wbcnets export cells --calibrate).

Examples:
  wbcnets predict cells --weights resnext_cc_26.pbc --input cells/ --output cells.csv
  wbcnets predict cells --weights output/pbc/best.pth --input slide.zip list.txt "x/*.png"
  wbcnets predict cells --weights resnext_cc_26.pbc --input fields/ --boxes found/predictions.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.cli.options import add_option
from wbcnets.data.cells.cutting import find_boxed_cells
from wbcnets.data.detection.coco import load_coco
from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predict_files import REVIEW, UNREADABLE, claim_tables, predict_files
from wbcnets.io.image_sources import ImageSource, find_image_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_option(parser, "weights")
    add_option(parser, "input")
    add_option(
        parser,
        "output",
        default=Path("predictions.csv"),
        metavar="CSV",
        help="the table to write",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="JSON",
        help="a COCO file, such as the predictions.json of wbcnets predict smears: classify its "
        "boxes, in the fields of the folder --input",
    )
    add_option(parser, "context")
    for name in ("tta", "amp", "batch-size", "device"):
        add_option(parser, name)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code, 1 if images cannot be read."""
    inputs = [args.weights, *args.input, *([args.boxes] if args.boxes else [])]
    claim_tables(args.output, inputs)[1].close()
    sources = _find_cells(args) if args.boxes else find_image_sources(args.input)
    classifier = load_classifier(args.weights, args.device)
    predictions, unreadable = predict_files(
        classifier, sources, args.output, batch_size=args.batch_size, tta=args.tta, amp=args.amp
    )
    print(f"{len(predictions.files)} images written to {args.output}")
    if predictions.review.any():
        count, table = int(predictions.review.sum()), args.output.with_name(REVIEW)
        print(f"{count} of them need a look, see {table}")
    if not unreadable:
        return 0
    for _, reason in unreadable:
        print(reason, file=sys.stderr)
    table = args.output.with_name(UNREADABLE)
    print(f"{len(unreadable)} images cannot be read, see {table}", file=sys.stderr)
    return 1


def _find_cells(args: argparse.Namespace) -> Sequence[ImageSource]:
    """Returns the cells in the boxes of a field."""
    if len(args.input) != 1:
        raise ConfigError("boxes need one folder of fields as input", setting="input")
    cells = find_boxed_cells(load_coco(args.boxes, args.input[0]), args.context)
    if not cells:
        raise DataError(f"{args.boxes}: there is no box in it", setting="boxes")
    return cells
