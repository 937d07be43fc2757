#!/usr/bin/env python
"""Draws command lines for every command and checks that each keeps the promises.

  python tests/stress/commands/fuzz.py --lines 100000 --seed 1
  python tests/stress/commands/fuzz.py --seed 1 --only 4711       one line again, with its output

Prints every broken promise with its line, and a summary.
"""

import argparse
import collections
import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "projects" / "mfds_detr")]

from tests.stress.commands.grammar import draw_line
from tests.stress.commands.promises import Outcome, broken_promises, command_of
from tests.stress.commands.runner import Runner


class Summary:
    """Counts outcomes."""

    def __init__(self, seed: int) -> None:
        self.seed, self.start = seed, time.monotonic()
        self.codes: collections.Counter[int | None] = collections.Counter()
        self.commands: collections.Counter[str] = collections.Counter()
        self.broken: list[str] = []
        self.in_sequence = 0
        self.next: int | None = None  # the line to go on with
        self.slowest = 0.0

    def add(self, number: int, outcome: Outcome, broken: Iterable[str]) -> None:
        """Counts one line, and keeps what it broke."""
        self.codes[outcome.code] += 1
        name = " ".join(command_of(outcome.words))
        self.commands[name] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        line = shlex.join(word[:200] for word in outcome.words)
        for promise in broken:
            self.broken.append(f"--seed {self.seed} --only {number}: {promise}\n    {line}")

    def __str__(self) -> str:
        codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(
            self.codes.items(), key=lambda item: -item[1]))  # fmt: skip
        minutes = (time.monotonic() - self.start) / 60
        return (
            f"{sum(self.codes.values()):,} lines of {len(self.commands)} commands in "
            f"{minutes:.1f} minutes, seed {self.seed}; exit codes {codes}; slowest "
            f"{self.slowest:.1f} s; {len(self.broken)} broken promises"
            + (f"; go on with --first {self.next}" if self.next is not None else "")
        )


def fuzz(runner: Runner, seed: int, numbers: Iterable[int], verbose: bool = False) -> Summary:
    """Runs the lines of a seed; a line that breaks a promise runs again, alone.

    Ctrl-C ends it early, with a summary that tells where to go on.
    """
    summary = Summary(seed)
    with contextlib.suppress(KeyboardInterrupt):
        _fuzz(runner, summary, numbers, verbose)
    runner.stop()
    return summary


def _fuzz(runner: Runner, summary: Summary, numbers: Iterable[int], verbose: bool) -> None:
    seed = summary.seed
    for number in numbers:
        summary.next = number
        words = draw_line(seed, number)
        outcome = runner.run(words)
        broken = broken_promises(outcome)
        if broken:
            alone = runner.run_alone(words)
            summary.in_sequence += not broken_promises(alone)
            outcome, broken = alone, broken_promises(alone)
        known = len(summary.broken)
        summary.add(number, outcome, broken)
        if verbose:
            print(*summary.broken[known:], sep="\n", end="\n" if broken else "", flush=True)
    summary.next = None


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this line alone and show all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        runner = Runner(Path(folder) / "sandbox")
        if args.only is not None:
            outcome = runner.run_alone(draw_line(args.seed, args.only))
            print(outcome, *broken_promises(outcome), sep="\n\n")
            return bool(broken_promises(outcome))
        numbers = range(args.first, args.first + args.lines)
        summary = fuzz(runner, args.seed, numbers, verbose=True)
        print(summary)
        return bool(summary.broken)


if __name__ == "__main__":
    sys.exit(main())
