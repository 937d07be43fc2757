"""Measures models and operators against their peers, in turns, in one run on this machine.

  python tools/benchmark.py --list
  python tools/benchmark.py --suite peers --output output/benchmark
  python tools/benchmark.py --case sckansformer_base/inference kan/forward --rounds 15
  python tools/benchmark.py --case mfds_detr/inference --profile

A ratio below 1 is faster than the peer. The folder gets a table, CSV files and a README.txt.
"""

import argparse
import gc
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from wbcnets.benchmark.case import Case, Settings
from wbcnets.benchmark.data_cases import data_cases
from wbcnets.benchmark.machine import measure_machine
from wbcnets.benchmark.measure import measure
from wbcnets.benchmark.model_cases import model_cases
from wbcnets.benchmark.operator_cases import operator_cases
from wbcnets.benchmark.profiling import profile_candidate
from wbcnets.benchmark.report import Result, write_report
from wbcnets.benchmark.scaling import (
    ScalingCase,
    ScalingPoint,
    measure_scaling,
    plot_scaling,
    sckansformer_scaling,
)
from wbcnets.errors import ConfigError, WbcnetsError

DETECTOR_PROJECT = Path(__file__).resolve().parents[1] / "projects" / "mfds_detr"
Found = TypeVar("Found")
SUITES = ("peers", "models", "operators", "detector", "data", "scaling", "all")


def main() -> None:
    """Parses the command line and runs it."""
    arguments = _parser().parse_args()
    try:
        _run(arguments)
    except WbcnetsError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, help="a group of cases; peers without --case")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="single cases, see --list")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"), metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=7, help="turns of ours and the peer (7)")
    parser.add_argument("--warmup", type=int, default=1, help="runs of each before (1)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; its own choice otherwise")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--profile", action="store_true", help="also write a trace of ours and of the peer"
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    cases, scaling, skipped = _all_cases()
    if arguments.list:
        _print_list(cases, scaling, skipped)
        return
    if arguments.rounds < 1 or arguments.warmup < 0:
        raise ConfigError("--rounds must be at least 1 and --warmup at least 0")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here; leave the option out")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    chosen, chosen_scaling = _choose(arguments, cases, scaling)
    settings = Settings(
        device=torch.device(arguments.device),
        dtype=getattr(torch, arguments.dtype),
        rounds=arguments.rounds,
        warmup=arguments.warmup,
    )
    _measure_all(arguments, settings, chosen, chosen_scaling, skipped)


def _all_cases() -> tuple[list[Case], list[ScalingCase], dict[str, str]]:
    """All cases, and why some are missing."""
    cases = [*model_cases(), *operator_cases(), *data_cases()]
    scaling, skipped = [sckansformer_scaling()], {}
    sys.path.insert(0, str(DETECTOR_PROJECT))
    try:
        from mfds_detr.benchmark import detector_cases, detector_scaling
    except ModuleNotFoundError as error:
        skipped["mfds_detr"] = f"{error}; run: python tools/install_detectron2.py"
    else:
        cases += detector_cases()
        scaling.append(detector_scaling())
    return cases, scaling, skipped


def _choose(
    arguments: argparse.Namespace, cases: list[Case], scaling: list[ScalingCase]
) -> tuple[list[Case], list[ScalingCase]]:
    if arguments.case:
        known = {case.name for case in cases} | {f"scaling/{case.name}" for case in scaling}
        unknown = sorted(set(arguments.case) - known)
        if unknown:
            raise ConfigError(f"unknown cases {unknown}; there are: {', '.join(sorted(known))}")
        return (
            [case for case in cases if case.name in arguments.case],
            [case for case in scaling if f"scaling/{case.name}" in arguments.case],
        )
    suite = arguments.suite or "peers"
    chosen = [case for case in cases if suite in (*case.suites, "all")]
    return chosen, scaling if suite in ("scaling", "peers", "all") else []


def _print_list(cases: list[Case], scaling: list[ScalingCase], skipped: dict[str, str]) -> None:
    width = max(len(case.name) for case in cases) + 2
    for case in cases:
        print(f"{case.name:{width}}{case.about} [{', '.join(case.suites)}]")
    for line in scaling:
        name = f"scaling/{line.name}"
        print(f"{name:{width}}{line.about}, by size and batch [scaling, peers]")
    for name, reason in skipped.items():
        print(f"{name:{width}}left out: {reason}")


def _measure_all(
    arguments: argparse.Namespace,
    settings: Settings,
    cases: list[Case],
    scaling: list[ScalingCase],
    skipped: dict[str, str],
) -> None:
    machine = measure_machine(settings.device, settings.dtype)
    results: list[Result] = []
    points: list[ScalingPoint] = []
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])

    def write() -> str:
        return write_report(arguments.output, command, machine, results, points, skipped)

    for case in cases:
        result = _attempt(case.name, skipped, partial(_measure_case, case, arguments, settings))
        results += [result] if result is not None else []
        write()  # after each: a long run that is stopped has lost nothing
    for line in scaling:
        name = f"scaling/{line.name}"
        points += _attempt(name, skipped, partial(measure_scaling, line, settings)) or []
    text = write()
    if points:
        plot_scaling(points, arguments.output / "scaling.png")
    print(f"{text}\nWritten to {arguments.output}")


def _measure_case(case: Case, arguments: argparse.Namespace, settings: Settings) -> Result:
    comparison = case.build(settings)
    measurement = measure(comparison, settings, case.name)
    if arguments.profile:
        for candidate in (comparison.ours, comparison.peer):
            if candidate is not None:
                profile_candidate(candidate, case.name, arguments.output, settings.device)
    gc.collect()
    return Result(case, comparison, measurement)


def _attempt(name: str, skipped: dict[str, str], run: Callable[[], Found]) -> Found | None:
    """What a run returns; of a peer that is not installed a note is made, and the others go on."""
    try:
        return run()
    except ModuleNotFoundError as error:
        skipped[name] = f"{error}; run: pip install {error.name}"
        return None


if __name__ == "__main__":
    main()
