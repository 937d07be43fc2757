"""Classifies cell images: folders, zips, lists and patterns of files to a table of probabilities.

Examples:
  python tools/predict_cells.py --weights resnext_cc_26.pbc --input cells/ --output cells.csv
  python tools/predict_cells.py --weights output/pbc/best.pth --input slide.zip list.txt "x/*.png"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.errors import WbcnetsError
from wbcnets.train.classifier import load_classifier
from wbcnets.train.image_sources import find_sources
from wbcnets.train.predict_files import predict_sources, write_problems
from wbcnets.train.predictions import AMP_TYPES, VIEWS


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", required=True, help="a run's checkpoint, a name such as NAME.pbc, or a folder"
    )
    parser.add_argument(
        "--input", required=True, nargs="+", help="images, folders, zips, .txt lists or patterns"
    )
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), metavar="CSV")
    parser.add_argument("--views", choices=VIEWS, default="none", help="average over views")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=sorted(AMP_TYPES), default="none")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0 when all images were read, 1 when some were not, 2 on errors."""
    args = build_parser().parse_args(arguments)
    try:
        classifier = load_classifier(args.weights)
        sources = find_sources(args.input)
        predictions, problems = predict_sources(
            classifier, sources, args.batch_size, args.device, args.amp, args.views
        )
        args.output.parent.mkdir(parents=True, exist_ok=True)
        if predictions is not None:
            predictions.to_csv(args.output)
            print(f"{len(predictions.files)} images written to {args.output}")
        if problems:
            table = args.output.with_name("problems.csv")
            write_problems(problems, table)
            print(f"{len(problems)} images could not be read: {table}", file=sys.stderr)
    except WbcnetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
