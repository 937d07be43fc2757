"""Judges a classifier on images whose classes are known: figures, intervals, tables, pictures.

Examples:
  python tools/evaluate_classifier.py --weights output/pbc/best.pth --data pbc --split val
  python tools/evaluate_classifier.py --weights resnext_cc_26.pbc --data other_lab --split "" \\
      --class-map map.yaml --views d4
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.manifest import load_cells
from wbcnets.errors import WbcnetsError
from wbcnets.train.class_map import read_class_map
from wbcnets.train.classifier import load_classifier
from wbcnets.train.compare import compare
from wbcnets.train.judging import (
    Setting,
    judge_predictions,
    map_classes,
    predict_manifest,
    report,
    write_evaluation,
)
from wbcnets.train.predictions import AMP_TYPES, VIEWS, Predictions


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", required=True, help="a run's checkpoint, a name such as NAME.pbc, or a folder"
    )
    parser.add_argument(
        "--data", required=True, help="a prepared set's name, a manifest, a folder or a table"
    )
    parser.add_argument("--split", default="val", help='which split (default: val; "" for all)')
    parser.add_argument("--output", type=Path, default=Path("output/evaluation"), metavar="FOLDER")
    parser.add_argument("--class-map", type=Path, metavar="YAML", help="the set's classes: model's")
    parser.add_argument("--compare", type=Path, metavar="CSV", help="another run's predictions.csv")
    parser.add_argument("--views", choices=VIEWS, default="none", help="average over views")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=sorted(AMP_TYPES), default="none")
    return parser


def evaluate(args: argparse.Namespace, command: str) -> str:
    """Runs one evaluation and returns its report."""
    classifier = load_classifier(args.weights)
    manifest = load_cells(args.data)
    if args.split:
        manifest = manifest.split(args.split)
    class_map = None if args.class_map is None else read_class_map(args.class_map)
    manifest, left_out = map_classes(manifest, classifier.class_names, class_map)
    setting = Setting(args.batch_size, args.workers, args.device, args.amp, args.views)
    predictions = predict_manifest(classifier, manifest, setting)
    judgement, _ = judge_predictions(predictions, manifest, args.bootstrap)
    comparison = (
        None if args.compare is None else compare(predictions, Predictions.from_csv(args.compare))
    )
    heading = [
        f"Model: {classifier.name}",
        f"Data: {args.data}, split {args.split or 'all'}, {len(manifest.images)} images, "
        f"{left_out} left out by the class map",
        f"Views: {args.views}",
        f"Command: `{command}`",
    ]
    write_evaluation(args.output, predictions, manifest, judgement, heading, comparison)
    return report(judgement, heading, comparison)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser().parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        print(evaluate(args, shlex.join(["python", "tools/evaluate_classifier.py", *given])))
    except WbcnetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nwritten to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
