"""Any command line gets an answer that keeps the promises of ``promises.py``."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.soak.scale import LONG

pytest.importorskip("detectron2")
from tests.stress.commands.fuzz import fuzz
from tests.stress.commands.grammar import commands, draw_line
from tests.stress.commands.promises import Outcome, broken_promises

SCRIPT = Path(__file__).with_name("fuzz.py")


def fuzzed(lines, first=0, seed=17):
    """Returns the output of the fuzzer, which runs in a process of its own."""
    numbers = ["--lines", str(lines), "--first", str(first), "--seed", str(seed)]
    command = [sys.executable, str(SCRIPT), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert f"{lines:,} lines" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_hundreds_of_lines():
    found = fuzzed(200)
    assert " 0 broken promises" in found, found


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_thousands_of_lines():
    found = fuzzed(2_000, first=200)
    assert " 0 broken promises" in found, found


@pytest.mark.skipif(not LONG, reason="long: make soak")
@pytest.mark.timeout(24 * 3600)
def test_a_hundred_thousand_lines():
    found = fuzzed(100_000, seed=1)
    print(found.splitlines()[-1])
    assert " 0 broken promises" in found, found


def test_every_option_of_every_command_is_drawn():
    drawn = [draw_line(0, number) for number in range(12_000)]
    assert drawn[:20] == [draw_line(0, number) for number in range(20)]
    words = {}
    for line in drawn:
        for length in (1, 2):
            words.setdefault(tuple(line[:length]), set()).update(line)
    missing = [
        f"{' '.join(command.words)} {option}"
        for command in commands()
        # The commands of the datasets share their options
        if command.words[0] != "prepare" or command.words[1] == "cells"
        for option in itertools.chain(*(action.option_strings for action in command.options))
        if option != "-h" and option not in words[command.words]
    ]
    assert missing == []


KEPT = {
    "words": ["check", "a.json", "--json", "out.json"],
    "code": 1,
    "stdout": "a.json: 1 problem",
}


@pytest.mark.parametrize(
    ("facts", "promise"),
    [
        ({}, ""),
        ({"created": ["out.json", "output/x"]}, ""),
        ({"code": 3}, "exit code 3"),
        ({"code": None, "seconds": 90.0}, "exit code None after 90 s"),
        ({"error": "Traceback ...\nKeyError: 'a'"}, "traceback: KeyError: 'a'"),
        ({"stderr": "Traceback (most recent call last):\nOSError"}, "traceback: OSError"),
        (
            {"words": ["smears", "--output", "x"], "code": 2, "stderr": "no"},
            "without a line 'error",
        ),
        ({"code": 2, "stderr": "error: bad", "stdout": ""}, "the error names nothing"),
        ({"code": 0, "missing": ["no weights"]}, "exit code 0, but no weights"),
        ({"changed": ["a.json"]}, "changed a.json"),
        ({"created": ["elsewhere.json"]}, "wrote elsewhere.json"),
        ({"leftovers": ["wbcnets-x"]}, "left the temporary file wbcnets-x"),
        ({"processes": 100}, "started 100 processes"),
        ({"payload": True}, "ran a payload"),
    ],
)
def test_broken_promises_are_found(facts, promise, tmp_path):
    found = broken_promises(Outcome(**{**KEPT, "work": tmp_path, **facts}))
    assert promise in "\n".join(found)
    assert bool(found) == bool(promise)


class InterruptedRunner:
    """Answers two lines, and is interrupted in the third."""

    def __init__(self, work):
        self.work, self.lines = work, 0

    def run(self, words):
        self.lines += 1
        if self.lines == 3:
            raise KeyboardInterrupt
        return Outcome(words, work=self.work, code=0)

    run_alone = run

    def stop(self):
        self.lines = 0


def test_an_interrupted_fuzzer_tells_where_to_go_on(tmp_path):
    runner = InterruptedRunner(tmp_path)
    summary = fuzz(runner, 17, range(40, 50))
    assert str(summary).endswith(" 0 broken promises; go on with --first 42")
    assert runner.lines == 0


@pytest.mark.parametrize(
    ("words", "owned"),
    [
        ("train cells --output earlier/cells --resume", True),
        ("train cells --output earlier/cells", False),
        ("predict cells --output earlier/cells/best.pth", False),
    ],
)
def test_a_command_may_only_continue_its_own_results(words, owned, tmp_path):
    facts = {"code": 0, "changed": ["earlier/cells/last.pth"], "work": tmp_path}
    found = broken_promises(Outcome(words.split(), **facts))
    assert found == ([] if owned else ["changed earlier/cells/last.pth"])
