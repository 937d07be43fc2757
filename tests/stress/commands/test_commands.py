"""Any command line gets an answer that keeps the promises of ``promises.py``."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.stress.commands.grammar import commands, draw_line
from tests.stress.commands.promises import Outcome, broken_promises
from tests.stress.soak.scale import LONG

pytest.importorskip("detectron2")
SCRIPT = Path(__file__).with_name("fuzz.py")


def fuzzed(lines, first=0, seed=17):
    """Returns the output of the fuzzer, which runs in a process of its own."""
    command = [sys.executable, str(SCRIPT), "--lines", str(lines), "--first", str(first)]
    done = subprocess.run(
        [*command, "--seed", str(seed)], capture_output=True, text=True, errors="replace"
    )
    assert f"{lines:,} lines" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_hundreds_of_lines():
    assert " 0 broken promises" in fuzzed(300)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_thousands_of_lines():
    assert " 0 broken promises" in fuzzed(2_000, first=300)


@pytest.mark.skipif(not LONG, reason="long: make soak")
@pytest.mark.timeout(24 * 3600)
def test_a_hundred_thousand_lines():
    found = fuzzed(100_000, seed=1)
    print(found.splitlines()[-1])
    assert " 0 broken promises" in found
