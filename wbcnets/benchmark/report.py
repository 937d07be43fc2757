"""What a benchmark leaves behind: a table, CSV files, the machine and a README."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from wbcnets.benchmark.case import Case, Comparison
from wbcnets.benchmark.machine import Machine
from wbcnets.benchmark.measure import Measurement
from wbcnets.benchmark.scaling import ScalingPoint, growth

README = """What tools/benchmark.py measured.

report.md     the table, for people
results.csv   the same and more, a row a case: median seconds, ratios of ours over the peer's
rounds.csv    every single run
scaling.csv   time against size and batch, with scaling.png, where it was measured
machine.json  the machine, its measured limits, and versions
trace_*.json  with --profile: open it at chrome://tracing or https://ui.perfetto.dev
profile_*.txt with --profile: the operators that took longest

A ratio below 1 is faster than the peer. Ours and the peer took turns; the ratio is the median of
the rounds' ratios. The floor is the longer of two times: the multiply-accumulates at the machine's
measured rate, and the bytes that have to move at its measured bandwidth.
"""
CSV_FIELDS = (
    "case",
    "peer",
    "seconds",
    "peer_seconds",
    "ratio",
    "ratio_min",
    "ratio_max",
    "target",
    "aim_met",
    "memory_ratio",
    "memory_aim",
    "memory_aim_met",
    "items_per_second",
    "macs",
    "floor_seconds",
    "saved_bytes",
    "peer_saved_bytes",
    "peak_bytes",
    "peer_peak_bytes",
)


@dataclass(frozen=True)
class Result:
    """A case, what it compared, and the figures."""

    case: Case
    comparison: Comparison
    measurement: Measurement

    def row(self, machine: Machine) -> dict[str, object]:
        """One row of results.csv; what does not apply is empty."""
        ours, measured, target = self.comparison.ours, self.measurement, self.case.target
        peer = self.comparison.peer
        ratios = measured.ratios
        values = {
            "case": self.case.name,
            "peer": peer.name if peer else None,
            "seconds": measured.ours.median,
            "peer_seconds": measured.peer.median if measured.peer else None,
            "ratio": measured.ratio,
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "target": target.time,
            "aim_met": _is_met(measured.ratio, target.time),
            "memory_ratio": measured.memory_ratio,
            "memory_aim": target.memory,
            "memory_aim_met": _is_met(measured.memory_ratio, target.memory),
            "items_per_second": ours.items / measured.ours.median,
            "macs": ours.macs,
            "floor_seconds": machine.floor_seconds(ours.macs, ours.bytes_moved),
            "saved_bytes": measured.ours_saved,
            "peer_saved_bytes": measured.peer_saved,
            "peak_bytes": measured.ours_peak,
            "peer_peak_bytes": measured.peer_peak,
        }
        return {field: "" if values[field] is None else values[field] for field in CSV_FIELDS}


def _is_met(found: float | None, target: float | None) -> str | None:
    if found is None or target is None:
        return None
    return "yes" if found <= target else "no"


def results_table(results: list[Result], machine: Machine) -> str:
    """A Markdown table of all results."""
    lines = [
        "| case | ours | peer | ours / peer (min to max) | times as fast | target | items/s | "
        "floor | kept memory |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    lines += [_table_line(result, machine) for result in results]
    return "\n".join(lines)


def _table_line(result: Result, machine: Machine) -> str:
    measured, target, ours = result.measurement, result.case.target, result.comparison.ours
    floor = machine.floor_seconds(ours.macs, ours.bytes_moved)
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
    """A Markdown table of time against size and batch."""
    lines = ["| model | batch | size | seconds | per image |", "| --- | ---: | --- | ---: | ---: |"]
    for point in points:
        lines.append(
            f"| {point.case} | {point.batch} | {point.width}x{point.height} | "
            f"{point.seconds:.3f} | {point.seconds_per_image:.3f} |"
        )
    for name in dict.fromkeys(point.case for point in points):
        by_size, by_batch = growth([point for point in points if point.case == name])
        lines.append(
            f"\n{name}: time per pixel grew by {by_size:.2f} from the smallest to the largest "
            f"image, time per image by {by_batch:.2f} from batch 1 to the largest."
        )
    return "\n".join(lines)


def write_report(
    folder: Path,
    command: str,
    machine: Machine,
    results: list[Result],
    points: list[ScalingPoint],
    skipped: dict[str, str],
) -> str:
    """Writes all files and returns the Markdown text.

    Args:
        folder: Made where it is missing.
        command: What was typed, for the record.
        machine: Measured in the same run.
        results: All comparisons.
        points: All points of scaling.
        skipped: Why cases were left out, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(README, encoding="utf-8")
    (folder / "machine.json").write_text(json.dumps(machine.as_dict(), indent=2), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(result.row(machine) for result in results)
    _write_rounds(folder / "rounds.csv", results)
    text = _report_text(command, machine, results, points, skipped)
    (folder / "report.md").write_text(text, encoding="utf-8")
    if points:
        _write_points(folder / "scaling.csv", points)
    return text


def _report_text(
    command: str,
    machine: Machine,
    results: list[Result],
    points: list[ScalingPoint],
    skipped: dict[str, str],
) -> str:
    rate, bandwidth = machine.macs_per_second / 1e9, machine.bytes_per_second / 1e9
    parts = [
        "# Benchmark",
        f"{machine.processor}, {machine.threads} threads; {rate:.0f} GMAC/s and {bandwidth:.1f} "
        f"GB/s measured; {', '.join(f'{k} {v}' for k, v in machine.versions.items())}.",
        f"Command: `{command}`",
    ]
    if results:
        parts.append(results_table(results, machine))
    if points:
        parts.append(scaling_table(points))
    parts += [f"Left out: {name}: {reason}" for name, reason in skipped.items()]
    return "\n\n".join(parts) + "\n"


def _write_rounds(path: Path, results: list[Result]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "candidate", "round", "seconds"])
        for result in results:
            for candidate, timing in (
                (result.comparison.ours, result.measurement.ours),
                (result.comparison.peer, result.measurement.peer),
            ):
                if candidate is not None and timing is not None:
                    for index, seconds in enumerate(timing.seconds):
                        writer.writerow([result.case.name, candidate.name, index, seconds])


def _write_points(path: Path, points: list[ScalingPoint]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "batch", "height", "width", "seconds"])
        for point in points:
            writer.writerow([point.case, point.batch, point.height, point.width, point.seconds])
