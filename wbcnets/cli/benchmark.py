"""Measures the speed and memory of models and operators against their peers, in turns.

Examples:
  wbcnets benchmark --list
  wbcnets benchmark --suite peers --output output/benchmark
  wbcnets benchmark --case sckansformer_base/inference kan/forward --rounds 15
  wbcnets benchmark --case mfds_detr/inference --profile

A ratio below 1 is faster than the peer. The folder gets a table, CSV files and a README.txt.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from wbcnets.api import import_smears
from wbcnets.benchmark.case import BenchmarkOptions, Case
from wbcnets.benchmark.scaling import ScalingCase
from wbcnets.benchmark.suite import SUITES, choose_cases, library_cases, run_cases
from wbcnets.cli.options import add_option, at_least
from wbcnets.engine.device import choose_device
from wbcnets.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets benchmark``."""
    add = parser.add_argument
    add("--suite", choices=SUITES, default="peers", help="a group of cases")
    add("--case", nargs="+", default=(), metavar="NAME", help="single cases, instead of a suite")
    add("--list", action="store_true", help="list the cases and stop")
    add_option(parser, "output", default=Path("output/benchmark"))
    add("--rounds", type=at_least(1), default=7, help="turns of ours and the peer")
    add("--warmup", type=at_least(0), default=1, help="runs of each before the first round")
    add("--threads", type=at_least(1, 1024), help="threads of PyTorch (default: its own choice)")
    add_option(parser, "device", default="cpu")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    add("--profile", action="store_true", help="also write a trace of ours and of the peer")


def run(args: argparse.Namespace) -> int:
    """Lists or measures the cases.

    Raises:
        ConfigError: if a case or a device is unknown.
    """
    cases, skipped = library_cases(), {}
    try:
        cases += import_smears("benchmark").detector_cases()
    except ConfigError as error:
        skipped["mfds_detr"] = str(error)
    if args.list:
        _print_list(cases, skipped)
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    options = BenchmarkOptions(
        device=choose_device(args.device),
        dtype=getattr(torch, args.dtype),
        rounds=args.rounds,
        warmup=args.warmup,
    )
    chosen = choose_cases(cases, args.suite, args.case)
    print(run_cases(chosen, options, args.output, args.command_line, skipped, args.profile))
    print(f"written to {args.output}")
    return 0


def _print_list(cases: Iterable[Case | ScalingCase], skipped: dict[str, str]) -> None:
    for case in cases:
        print(f"{case.name:32}{case.about} [{', '.join(case.suites)}]")
    for name, reason in skipped.items():
        print(f"{name:32}left out: {reason}")
