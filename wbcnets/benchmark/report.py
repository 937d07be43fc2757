"""The report of a benchmark: a table, CSV files, the machine and a README."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wbcnets.benchmark.case import Case, Pair
from wbcnets.benchmark.machine import Machine
from wbcnets.benchmark.measure import Measurement
from wbcnets.benchmark.scaling import ScalingPoint, growth
from wbcnets.io.atomic_files import write_text
from wbcnets.io.outputs import write_readme
from wbcnets.io.tables import write_csv

COMMAND = "benchmark"
README = """\
report.md     the table
results.csv   one row per case: median seconds, ratios of ours over the peer's, memory
rounds.csv    every single run
scaling.csv   time against size and batch, with scaling.png, if it was measured
machine.json  the machine, its measured limits, and versions
trace_*.json  if profiled: open it at chrome://tracing or https://ui.perfetto.dev
profile_*.txt if profiled: the slowest operators

A ratio below 1 is faster than the peer. Ours and the peer take turns; the ratio is the median of
the rounds' ratios. The floor is the longer of two times: the multiply-accumulates at the machine's
measured rate, and the bytes that have to move at its measured bandwidth.
"""


@dataclass(frozen=True)
class Result:
    """A measured case."""

    case: Case
    pair: Pair
    measurement: Measurement

    def row(self, machine: Machine) -> dict[str, object]:
        """Returns one row of results.csv; fields that do not apply are None."""
        ours, measured, target = self.pair.ours, self.measurement, self.case.target
        peer, peer_runs = self.pair.peer, measured.peer
        return {
            "case": self.case.name,
            "peer": peer.name if peer else None,
            "seconds": measured.ours.median,
            "peer_seconds": peer_runs.median if peer_runs else None,
            "ratio": measured.ratio,
            "ratio_min": min(measured.ratios, default=None),
            "ratio_max": max(measured.ratios, default=None),
            "target": target.time,
            "target_met": _is_met(measured.ratio, target.time),
            "memory_ratio": measured.memory_ratio,
            "memory_target": target.memory,
            "memory_target_met": _is_met(measured.memory_ratio, target.memory),
            "items_per_second": ours.items / measured.ours.median,
            "macs": ours.macs,
            "floor_seconds": machine.floor_seconds(ours),
            "saved_bytes": measured.ours.saved_bytes,
            "peer_saved_bytes": peer_runs.saved_bytes if peer_runs else None,
            "peak_bytes": measured.ours.peak_bytes,
            "peer_peak_bytes": peer_runs.peak_bytes if peer_runs else None,
        }

    def rounds(self) -> Iterable[tuple[object, ...]]:
        """Yields case, candidate, round and seconds of every run."""
        sides = ((self.pair.ours, self.measurement.ours), (self.pair.peer, self.measurement.peer))
        for candidate, runs in sides:
            if candidate is not None and runs is not None:
                for index, seconds in enumerate(runs.seconds):
                    yield self.case.name, candidate.name, index, seconds


@dataclass
class Report:
    """The results of a run so far.

    Args:
        command: The command line.
        machine: Measured in the same run.
        skipped: Why cases were left out, by name.
        results: The measured cases.
        points: The measured points of scaling.
    """

    command: str
    machine: Machine
    skipped: dict[str, str]
    results: list[Result] = field(default_factory=list)
    points: list[ScalingPoint] = field(default_factory=list)

    def write(self, folder: Path) -> str:
        """Writes all files into a folder, made if missing; returns the Markdown text."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.text()
        machine = json.dumps(self.machine.as_dict(), indent=2)
        for name, content in (
            ("machine.json", machine),
            ("report.md", text),
        ):
            write_text(folder / name, content)
        write_readme(folder, COMMAND, README)
        rows = [result.row(self.machine) for result in self.results]
        if rows:
            write_csv(folder / "results.csv", [rows[0].keys(), *(row.values() for row in rows)])
        rounds = (line for result in self.results for line in result.rounds())
        write_csv(folder / "rounds.csv", [("case", "candidate", "round", "seconds"), *rounds])
        if self.points:
            points = ((p.model, p.batch, p.height, p.width, p.seconds) for p in self.points)
            names = ("model", "batch", "height", "width", "seconds")
            write_csv(folder / "scaling.csv", [names, *points])
        return text

    def text(self) -> str:
        """Returns the report as Markdown."""
        machine = self.machine
        rate, bandwidth = machine.macs_per_second / 1e9, machine.bytes_per_second / 1e9
        in_half = machine.bfloat16_macs_per_second
        half = f" ({in_half / 1e9:.0f} in bfloat16)" if in_half else ""
        parts = [
            "# Benchmark",
            f"{machine.processor}, {machine.threads} threads; {rate:.0f} GMAC/s{half} and "
            f"{bandwidth:.1f} GB/s measured; "
            f"{', '.join(f'{name} {version}' for name, version in machine.versions.items())}.",
            f"Command: `{self.command}`",
        ]
        parts += [results_table(self.results, machine)] if self.results else []
        parts += [scaling_table(self.points)] if self.points else []
        parts += [f"Left out: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n\n".join(parts) + "\n"


def _is_met(ratio: float | None, target: float | None) -> str | None:
    if ratio is None or target is None:
        return None
    return "yes" if ratio <= target else "no"


def results_table(results: list[Result], machine: Machine) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| case | ours | peer | ours / peer (min to max) | speedup | target | items/s | "
        "floor | kept memory |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    lines += [_table_line(result, machine) for result in results]
    return "\n".join(lines)


def _table_line(result: Result, machine: Machine) -> str:
    measured, target, ours = result.measurement, result.case.target, result.pair.ours
    floor = machine.floor_seconds(ours)
    ratio, ratios = measured.ratio, measured.ratios
    memory = measured.memory_ratio
    cells = [
        result.case.name,
        _milliseconds(measured.ours.median),
        _milliseconds(measured.peer.median if measured.peer else None),
        f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratio else "",
        f"{1 / ratio:.1f}" if ratio else "",
        f"{target.time:.2f}, {_verdict(ratio, target.time)}" if target.time else "",
        f"{ours.items / measured.ours.median:.1f}",
        f"{_milliseconds(floor)} ({floor / measured.ours.median:.0%})" if floor else "",
        f"{memory:.2f} of peer" if memory is not None else "",
    ]
    if target.memory and memory is not None:
        cells[-1] += f" (target {target.memory:.2f}, {_verdict(memory, target.memory)})"
    return f"| {' | '.join(cells)} |"


def _verdict(found: float | None, target: float) -> str:
    return "met" if found is not None and found <= target else "missed"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f} ms"


def scaling_table(points: list[ScalingPoint]) -> str:
    """Returns time against size and batch as a Markdown table."""
    lines = ["| model | batch | size | seconds | per image |", "| --- | ---: | --- | ---: | ---: |"]
    for point in points:
        lines.append(
            f"| {point.model} | {point.batch} | {point.width}x{point.height} | "
            f"{point.seconds:.3f} | {point.seconds_per_image:.3f} |"
        )
    for name in dict.fromkeys(point.model for point in points):
        by_size, by_batch = growth([point for point in points if point.model == name])
        lines.append(
            f"\n{name}: time per pixel grew by {by_size:.2f} from the smallest to the largest "
            f"image, time per image by {by_batch:.2f} from batch 1 to the largest."
        )
    return "\n".join(lines)
