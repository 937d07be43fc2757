"""Classifies cell images into a table of probabilities.

unreadable.csv beside the table lists the images that cannot be read; the exit code is then 1.

Examples:
  wbcnets predict cells --weights resnext_cc_26.pbc --input cells/ --output cells.csv
  wbcnets predict cells --weights output/pbc/best.pth --input slide.zip list.txt "x/*.png"
"""

import argparse
import sys
from pathlib import Path

from wbcnets.cli.options import add_option
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predict_files import UNREADABLE, claim_tables, predict_files
from wbcnets.io.image_sources import find_image_sources


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
    for name in ("tta", "amp", "batch-size", "device"):
        add_option(parser, name)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code, 1 if images cannot be read."""
    claim_tables(args.output, [args.weights, *args.input])
    sources = find_image_sources(args.input)
    classifier = load_classifier(args.weights, args.device)
    predictions, unreadable = predict_files(
        classifier, sources, args.output, batch_size=args.batch_size, tta=args.tta, amp=args.amp
    )
    print(f"{len(predictions.files)} images written to {args.output}")
    if not unreadable:
        return 0
    for _, reason in unreadable:
        print(reason, file=sys.stderr)
    table = args.output.with_name(UNREADABLE)
    print(f"{len(unreadable)} images cannot be read, see {table}", file=sys.stderr)
    return 1
