#!/usr/bin/env python
"""Trains the models of a paper's ablation tables, and prints the results beside the paper's.

Examples:
  python tools/run_ablations.py --paper sckansformer --data pbc --output runs/sck_ablations
  python tools/run_ablations.py --paper resnext_cc --data cnmc --tables 6 7 --output runs/cc
  python tools/run_ablations.py --paper conv_sparse_vit --data my_cells --output runs/sparse \\
      training.epochs=10 model.pretrained=false

sckansformer has tables IV, V and VI, with the same rows on three datasets; resnext_cc 3 to 7;
conv_sparse_vit 3. Without --tables, those on this dataset are run, or all if there are none. The
same command continues an interrupted study: finished trainings are kept.
"""

import argparse
import sys

from wbcnets.cli.main import run_command
from wbcnets.cli.options import add_option
from wbcnets.train.ablation_tables import STUDIES
from wbcnets.train.ablations import run_ablations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add = parser.add_argument
    add("--paper", required=True, choices=tuple(STUDIES), help="the paper of the tables")
    add_option(parser, "data", required=True)
    add_option(parser, "output", required=True, help="the folder of all trainings")
    add("--tables", nargs="+", default=(), metavar="NUMBER", help="run only these tables")
    add("--positive", default="", metavar="CLASS", help="the positive one of two classes")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all trainings")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the tables.

    Raises:
        WbcnetsError: if the settings or the data cannot be used.
    """
    options = (args.overrides, args.tables, args.positive)
    print(run_ablations(args.paper, args.data, args.output, *options))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
