#!/usr/bin/env python
"""Stops every command by signals, lowers every limit, and counts what the commands do then.

python tests/stress/signals/report.py                       prints the counts and the wrong ends
python tests/stress/signals/report.py --output FILE.md      writes a table of all cases, too
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "projects" / "mfds_detr")]

from tqdm import tqdm

from tests.stress.report import markdown_table, write_report
from tests.stress.signals.case import Case
from tests.stress.signals.cases import CASES
from tests.stress.signals.commands import COMMANDS, make_inputs
from tests.stress.signals.running import run_case

_INTRODUCTION = """# Signals and limits

Written by `make signals`. Each case runs one command in a process of its own, stops it or takes
something away from it, and looks at what is left: the exit code, no traceback, no process, no
temporary file, every output whole or absent, every input as it was (`test_signals.py`).

A command ends with 130 after Ctrl-C and with 143 after SIGTERM or SIGHUP; a training saves a
checkpoint first, and a second signal, half a second later or more, ends that, too. 0 means that the
command ended before the signal came, or that the limit does not touch it. With `ulimit` a command
may finish, or name the limit with 1 or 2.
"""


def make(args: argparse.Namespace) -> tuple[str, str, list[str]]:
    """Runs all cases; returns the counts, the table, and a line per broken promise."""
    del args
    found: list[tuple[Case, int, list[str]]] = []
    with tempfile.TemporaryDirectory(prefix="wbcnets-signals-") as scratch:
        Path(scratch).chmod(0o755)
        make_inputs(Path(scratch) / "inputs")
        for case in tqdm(CASES, unit="case"):
            folder = Path(tempfile.mkdtemp(dir=scratch))
            shutil.copytree(Path(scratch) / "inputs", folder, dirs_exist_ok=True)
            folder.chmod(0o755)
            code, _, broken = run_case(case, folder)
            found.append((case, code, broken))
            shutil.rmtree(folder)
    kept = sum(not broken for _, _, broken in found)
    summary = f"{_INTRODUCTION}\n{len(found)} cases; {kept} keep all promises.\n"
    wrong = [f"{case.id}: {'; '.join(broken)}" for case, _, broken in found if broken]
    return summary, _table(found), wrong


def _table(found: list[tuple[Case, int, list[str]]]) -> str:
    """Returns a row per disturbance and a column per command: the exit codes, and how often."""
    codes: dict[tuple[str, str], Counter[str]] = {}
    for case, code, broken in found:
        counter = codes.setdefault((case.disturbance, case.command), Counter())
        counter[f"{code}{' wrong' if broken else ''}"] += 1
    titles = list(dict.fromkeys(case.disturbance for case, _, _ in found))
    return markdown_table(
        ("what happens", *COMMANDS),
        ((title, *(_cell(codes.get((title, name))) for name in COMMANDS)) for title in titles),
    )


def _cell(counter: Counter[str] | None) -> str:
    entries = sorted((counter or Counter()).items())
    return ", ".join(code if times == 1 else f"{code} x{times}" for code, times in entries)


if __name__ == "__main__":
    sys.exit(write_report(__doc__, make))
