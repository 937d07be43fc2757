"""Classifies cell images: folders, zips, lists and patterns of files to a table of probabilities.

Examples:
  python tools/predict_cells.py --weights resnext_cc_26.pbc --input cells/ --output cells.csv
  python tools/predict_cells.py --weights output/pbc/best.pth --input slide.zip list.txt "x/*.png"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbcnets.engine.precision import AMP_DTYPES
from wbcnets.errors import ConfigError, WbcnetsError
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predict_files import predict_sources, write_problems
from wbcnets.evaluation.predictions import TTA_MODES, Predictions
from wbcnets.io.image_sources import find_image_sources

PROBLEMS = "problems.csv"


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
    parser.add_argument("--views", choices=TTA_MODES, default="none", help="average over views")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=sorted(AMP_DTYPES), default="none")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: 0 when all images were read, 1 when some were not, 2 on errors."""
    args = build_parser().parse_args(arguments)
    try:
        problems = predict_to_table(args)
    except WbcnetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if problems else 0


def predict_to_table(args: argparse.Namespace) -> int:
    """Writes the table of probabilities, and one of problems; returns how many of these there are.

    Raises:
        WbcnetsError: The weights, an input or an option cannot be used.
    """
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size} is out of range; it must be 1 or more")
    if args.output.name == PROBLEMS or args.output.is_dir():
        raise ConfigError(f"--output {args.output}: name another file, such as cells.csv")
    sources = find_image_sources(args.input)
    classifier = load_classifier(args.weights)
    predictions, problems = predict_sources(
        classifier, sources, args.batch_size, args.device, args.amp, args.views
    )
    names = classifier.class_names
    if predictions is None:
        predictions = Predictions(names, (), np.zeros((0, len(names))))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(args.output)
    print(f"{len(predictions.files)} images written to {args.output}")
    table = args.output.with_name(PROBLEMS)
    for name, problem in problems:
        print(problem if name in problem else f"{name}: {problem}", file=sys.stderr)
    # An empty one takes the place of that of an earlier call
    if problems or _is_problem_table(table):
        write_problems(problems, table)
    if problems:
        print(f"{len(problems)} images could not be read, see {table}", file=sys.stderr)
    return len(problems)


def _is_problem_table(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(b"file,problem")


if __name__ == "__main__":
    sys.exit(main())
