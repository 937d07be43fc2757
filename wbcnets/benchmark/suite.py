"""The cases of a benchmark by name and by suite, and the run over them."""

import gc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from wbcnets.benchmark.case import BenchmarkOptions, Case
from wbcnets.benchmark.data_cases import data_cases
from wbcnets.benchmark.machine import measure_machine
from wbcnets.benchmark.measure import measure
from wbcnets.benchmark.model_cases import model_cases
from wbcnets.benchmark.operator_cases import operator_cases
from wbcnets.benchmark.profiling import profile_candidate
from wbcnets.benchmark.report import COMMAND, Report, Result
from wbcnets.benchmark.scaling import (
    ScalingCase,
    measure_scaling,
    plot_scaling,
    sckansformer_scaling,
)
from wbcnets.errors import ConfigError
from wbcnets.io.outputs import claim_folder

SUITES = ("peers", "models", "operators", "detector", "data", "scaling", "all")
T = TypeVar("T")


def library_cases() -> list[Case | ScalingCase]:
    """Returns the cases of wbcnets; those of the detector come from its own package."""
    return [*model_cases(), *operator_cases(), *data_cases(), sckansformer_scaling()]


def choose_cases(
    cases: Iterable[Case | ScalingCase], suite: str = "peers", names: Sequence[str] = ()
) -> list[Case | ScalingCase]:
    """Returns the cases with these names, or those of a suite without names.

    Raises:
        ConfigError: if there is no case of a name.
    """
    by_name = {case.name: case for case in cases}
    unknown = sorted(set(names) - set(by_name))
    if unknown:
        raise ConfigError(f"unknown cases {unknown}; known are: {', '.join(sorted(by_name))}")
    if names:
        return [case for name, case in by_name.items() if name in names]
    return [case for case in by_name.values() if suite in (*case.suites, "all")]


def run_cases(
    cases: Sequence[Case | ScalingCase],
    options: BenchmarkOptions,
    folder: Path,
    command: str,
    skipped: dict[str, str],
    profile: bool = False,
) -> str:
    """Measures the cases and writes the report; returns its text.

    Args:
        cases: The cases, in order.
        options: Rounds, warm-up, device and dtype.
        folder: The folder of the report.
        command: The command line, for the report.
        skipped: Cases that are left out, and why; cases without their package are added.
        profile: Also write a trace of ours and of the peer.
    """
    with claim_folder(folder, COMMAND):
        report = Report(command, measure_machine(options.device, options.dtype), skipped)
        for case in cases:
            if isinstance(case, ScalingCase):
                points = _attempt(case.name, skipped, partial(measure_scaling, case, options))
                report.points.extend(points or ())
            else:
                run = partial(_measure_case, case, options, folder if profile else None)
                result = _attempt(case.name, skipped, run)
                report.results.extend([result] if result else ())
            report.write(folder)  # after each, so that an interrupted run keeps its results
        if report.points:
            plot_scaling(report.points, folder / "scaling.png")
        return report.write(folder)


def _measure_case(case: Case, options: BenchmarkOptions, profile_folder: Path | None) -> Result:
    pair = case.build(options)
    measurement = measure(pair, options, case.name)
    if profile_folder is not None:
        for candidate in (pair.ours, pair.peer):
            if candidate is not None:
                profile_candidate(candidate, case.name, profile_folder, options.device)
    gc.collect()
    return Result(case, pair, measurement)


def _attempt(name: str, skipped: dict[str, str], run: Callable[[], T]) -> T | None:
    """Returns the result of a run; notes a peer that is not installed, so that others continue."""
    try:
        return run()
    except ModuleNotFoundError as error:
        skipped[name] = f"{error}; run: pip install {error.name}"
        return None
