"""Runs a paper's ablation tables on a data set, and prints them beside the paper's figures.

  python tools/run_ablations.py --paper sckansformer --data pbc --output runs/sck_ablations
  python tools/run_ablations.py --paper resnext_cc --data cnmc --tables 6 7 --output runs/cc
  python tools/run_ablations.py --paper conv_sparse_vit --data my_cells --output runs/sparse \\
      training.epochs=10 model.pretrained=false

Tables IV, V and VI of sckansformer have the same rows on three sets; 3 to 7 of resnext_cc; 3 of
conv_sparse_vit. Without --tables those about the set are run, else all. Runs that are finished are
kept, a stopped one goes on: start the same command again. Settings KEY=VALUE apply to all runs; see
tools/train_classifier.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.errors import WbcnetsError
from wbcnets.train.ablation_tables import STUDIES
from wbcnets.train.ablations import run_ablations


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", required=True, choices=tuple(STUDIES))
    parser.add_argument("--data", required=True, metavar="NAME_OR_PATH", help="a prepared set")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--tables", nargs="+", default=(), metavar="NUMBER", help="only these")
    parser.add_argument(
        "--positive", default="", metavar="CLASS", help="of two classes, the positive one"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all runs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when done, 1 on an error, 130 when interrupted."""
    args = build_parser().parse_intermixed_args(arguments)
    try:
        print(
            run_ablations(
                args.paper, args.data, args.output, args.overrides, args.tables, args.positive
            )
        )
    except (WbcnetsError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; start the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
