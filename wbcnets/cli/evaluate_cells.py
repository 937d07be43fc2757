"""Evaluates a classifier on labeled cell images: metrics with intervals, tables and plots.

Examples:
  wbcnets evaluate cells --weights output/pbc/best.pth --data pbc --split val
  wbcnets evaluate cells --weights resnext_cc_26.pbc --data other_lab --split "" \\
      --class-map map.yaml --tta d4
  wbcnets evaluate cells --weights resnext_cc_26.pbc --data txl_pbc_cells \\
      --split bccd_train+bccd_val --only-present
"""

import argparse
from pathlib import Path

from wbcnets.cli.options import add_option, at_least
from wbcnets.evaluation.evaluate import evaluate_classifier
from wbcnets.evaluation.report import REPORT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_option(parser, "weights")
    add_option(parser, "data", required=True)
    parser.add_argument(
        "--split", default="val", help='the split, or several: "fold1+fold2"; "" for all images'
    )
    add_option(parser, "output", default=Path("output/evaluation"))
    parser.add_argument(
        "--class-map",
        type=Path,
        metavar="YAML",
        help="maps the dataset's classes to the model's, one 'ig: IG' per line",
    )
    parser.add_argument(
        "--only-present",
        action="store_true",
        help="choose among the classes that the images have, such as five types of another "
        "laboratory, and leave out images of classes that the model lacks",
    )
    parser.add_argument(
        "--compare",
        dest="compare_with",
        type=Path,
        metavar="CSV",
        help="the predictions.csv of another evaluation, for McNemar's test",
    )
    parser.add_argument(
        "--bootstrap",
        dest="resamples",
        type=at_least(0),
        default=1000,
        help="resamples for the intervals; 0 for none",
    )
    for name in ("tta", "amp", "batch-size", "workers", "device"):
        add_option(parser, name)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    names = "split output class_map only_present compare_with tta amp resamples"
    names += " batch_size workers device"
    options = {name: getattr(args, name) for name in names.split()}
    evaluate_classifier(args.weights, args.data, command=args.command_line, **options)
    print((args.output / REPORT).read_text(encoding="utf-8"))
    print(f"written to {args.output}")
    return 0
