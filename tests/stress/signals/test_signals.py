"""A command that is stopped, or that meets a limit, ends with its code and leaves no half files."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.stress.signals.cases import CASES
from tests.stress.signals.commands import COMMANDS, make_inputs
from tests.stress.signals.running import run_case
from wbcnets.cli.main import COMMANDS as ALL_COMMANDS


@pytest.fixture(scope="session")
def inputs():
    """Makes the inputs of all commands in a folder that other users can read."""
    with tempfile.TemporaryDirectory(prefix="wbcnets-signals-") as folder:
        make_inputs(Path(folder) / "inputs")
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def place(inputs):
    """Copies the inputs; the command works in the copy."""
    folder = Path(tempfile.mkdtemp(dir=inputs))
    shutil.copytree(inputs / "inputs", folder, dirs_exist_ok=True)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.long if case.long else (), id=case.id) for case in CASES],
)
def test_disturbance(case, place):
    if case.command.endswith("smears") and " " in case.command:
        pytest.importorskip("detectron2")
    code, text, broken = run_case(case, place)
    assert broken == [], f"exit code {code}\n{text[-3000:]}"


@pytest.mark.long
@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.5])
def test_an_interrupted_start_prints_no_traceback(seconds, place):
    """The imports of a command take seconds."""
    code = "import sys; from wbcnets_command import main; sys.exit(main())"
    words = [sys.executable, "-O", "-c", code, "check", "cells"]
    process = subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "wbcnets" not in error, error


def test_every_command_is_disturbed():
    tried = {command.split()[0] for command in COMMANDS}
    assert tried == ALL_COMMANDS.keys() - {"install-detectron2", "completion"}
    assert len({case.id for case in CASES}) == len(CASES)
