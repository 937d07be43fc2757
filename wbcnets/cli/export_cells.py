"""Writes a trained classifier as one small file, or as a folder from which timm creates the model.

Both hold classes and preprocessing; wbcnets predict, evaluate and load_classifier take them.

Examples:
  wbcnets export cells --weights output/pbc/best.pth --output cells.safetensors
  wbcnets export cells --weights output/pbc/best.pth --output my_model/
  python -c "import timm, wbcnets; timm.create_model('local-dir:my_model', pretrained=True)"
"""

import argparse

from wbcnets.cli.options import add_option
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


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    check_export(args.output, [args.weights])
    classifier = load_classifier(args.weights, device="cpu")
    export_classifier(classifier, args.output)
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters written to {args.output}")
    return 0
