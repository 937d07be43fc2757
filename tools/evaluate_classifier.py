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

from wbcnets.data.cells.loading import load_cells
from wbcnets.engine.precision import AMP_DTYPES
from wbcnets.errors import ConfigError, WbcnetsError
from wbcnets.evaluation.class_map import match_classes, read_class_map
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predictions import TTA_MODES, Predictions
from wbcnets.evaluation.report import (
    Setting,
    evaluate_predictions,
    predict_manifest,
    report,
    write_evaluation,
)
from wbcnets.evaluation.significance import compare, disagreements, write_disagreements


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
    parser.add_argument("--views", choices=TTA_MODES, default="none", help="average over views")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=sorted(AMP_DTYPES), default="none")
    return parser


def evaluate(args: argparse.Namespace, command: str) -> str:
    """Runs one evaluation and returns its report."""
    _check_numbers(args)
    # Small files first: a mistake in them must not show after the model's work
    class_map = None if args.class_map is None else read_class_map(args.class_map)
    other = None if args.compare is None else Predictions.from_csv(args.compare)
    manifest = load_cells(args.data)
    if args.split:
        manifest = manifest.split(args.split)
    classifier = load_classifier(args.weights)
    match = match_classes(manifest.class_names, classifier.class_names, class_map)
    manifest, left_out = match.select(manifest)
    setting = Setting(args.batch_size, args.workers, args.device, args.amp, args.views)
    predictions = match.merge(predict_manifest(classifier, manifest, setting))
    judgement, _ = evaluate_predictions(predictions, manifest, args.bootstrap)
    heading = [
        f"Model: {classifier.name}",
        f"Data: {args.data}, split {args.split or 'all'}, {len(manifest.images)} images, "
        f"{sum(left_out.values())} left out by the class map"
        + "".join(f", {count} {name}" for name, count in left_out.items()),
        f"Views: {args.views}",
        # A run's own log may be of another precision, which changes some classes
        f"Precision: {'float32' if args.amp == 'none' else args.amp}",
        f"Command: `{command}`",
    ]
    comparison = None if other is None else compare(predictions, other)
    write_evaluation(args.output, predictions, manifest, judgement, heading, comparison)
    _write_disagreements(args.output / "disagreements.csv", predictions, other)
    return report(judgement, heading, comparison)


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in (("batch_size", 1), ("workers", 0), ("bootstrap", 0)):
        value = getattr(args, name)
        if value < least:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} {value} is out of range; it must be {least} or more")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"--output {args.output}: is a file; name a folder")


def _write_disagreements(path: Path, predictions: Predictions, other: Predictions | None) -> None:
    """Writes the table, or removes that of an earlier comparison."""
    if other is None:
        path.unlink(missing_ok=True)
    else:
        write_disagreements(disagreements(predictions, other), path)


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
