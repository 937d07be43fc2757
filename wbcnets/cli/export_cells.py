"""Writes a trained classifier as one small file, or as a folder from which timm creates the model.

Both hold classes and preprocessing; wbcnets predict, evaluate and load_classifier take them.
With --calibrate they also hold the temperature of the probabilities and the probability below which
cells go to review, both from labeled images that were not trained on.

Examples:
  wbcnets export cells --weights output/pbc/best.pth --output cells.safetensors
  wbcnets export cells --weights output/pbc/best.pth --output cells.safetensors --calibrate pbc
  wbcnets export cells --weights output/pbc/best.pth --output my_model/
  python -c "import timm, wbcnets; timm.create_model('local-dir:my_model', pretrained=True)"
"""

import argparse
from dataclasses import replace

from wbcnets.cli.options import add_option
from wbcnets.evaluation.calibration import calibrate_classifier, describe_calibration
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.export import check_export, export_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_option(parser, "weights")
    add_option(
        parser,
        "output",
        required=True,
        metavar="FILE_OR_FOLDER",
        help="a .safetensors file (float16), or a folder",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="NAME_OR_PATH",
        help="labeled images to calibrate on: prepared datasets, folders, manifests or tables",
    )
    parser.add_argument("--split", default="val", help='the split of these; "" for all images')


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    check_export(args.output, [args.weights])
    classifier = load_classifier(args.weights, device="cpu")
    if args.calibrate:
        calibration = calibrate_classifier(classifier, args.calibrate, args.split)
        classifier = replace(classifier, calibration=calibration)
        print(describe_calibration(calibration, args.output))
    export_classifier(classifier, args.output)
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters written to {args.output}")
    return 0
