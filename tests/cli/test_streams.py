"""Commands in pipes that nobody reads, on full disks and without standard streams."""

import errno
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from wbcnets.cli.streams import escape_controls, standard_streams

# A command of a process of its own
COMMAND = """
import sys, types
from wbcnets.cli.main import run_command
command = types.ModuleType("command")
command.add_arguments = lambda parser: None
command.run = lambda args: [print(n, "x" * 99) for n in range(10_000)] and 1
sys.exit(run_command(command, []))
"""
FULL = "error: [Errno 28] standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("COMMAND | head -1 > /dev/null; exit ${PIPESTATUS[0]}", 1, ""),
        ("COMMAND > /dev/full", 2, FULL),
        ("COMMAND <&- >&- 2>&-", 1, ""),
    ],
)
def test_output_that_goes_nowhere(line, code, error):
    shell = ["bash", "-c", line.replace("COMMAND", '"$0" -c "$1"'), sys.executable, COMMAND]
    process = subprocess.run(shell, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (code, error)


@pytest.fixture
def redirect(monkeypatch):
    """Returns a function that puts a file or descriptor in the place of standard output."""
    with ExitStack() as stack:

        def open_output(target):
            stream = stack.enter_context(open(target, "w", encoding="ascii"))
            for name in ("stdout", "__stdout__"):
                monkeypatch.setattr(sys, name, stream)
            return stream

        yield open_output


def test_a_pipe_without_a_reader_costs_the_output_only(redirect):
    reader, writer = os.pipe()
    os.close(reader)
    stream = redirect(writer)
    with standard_streams():
        print("x" * 100_000, flush=True)
        print("y", flush=True)
        assert sys.stdout is not stream
    assert sys.stdout is stream


def test_what_cannot_be_encoded_is_escaped(redirect, tmp_path):
    redirect(tmp_path / "out.txt")
    with standard_streams():
        print("Zelle ä \udcff")
    assert (tmp_path / "out.txt").read_text() == "Zelle \\xe4 \\udcff\n"


def test_control_characters_of_names_do_not_reach_a_terminal(redirect, tmp_path):
    redirect(tmp_path / "out.txt")
    with standard_streams():
        print("a\x1b]0;title\x07b\x9b2J\x1b[8mhidden\x1b[2J\rc\x00\u202ed.png")
    assert (tmp_path / "out.txt").read_bytes() == (
        b"a\\x1b]0;title\\x07b\\x9b2J\\x1b[8mhidden\\x1b[2J\\rc\\x00\\u202ed.png\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("ä\tb\r\nc\n", "\rbar: 10%", "\r     \r", "\x1b[A", "\x1b[A\x1b[A", "\n"),
        "\x1b[32m[11/22 00:00:00]\x1b[0m \x1b[5m\x1b[31mWARNING\x1b[0m: a",
    ],
)
def test_logs_and_progress_bars_are_written_as_they_are(text):
    assert escape_controls(text) == text


def test_marks_that_turn_the_direction_of_text_are_escaped():
    assert escape_controls("a\u202egnp.exe") == r"a\u202egnp.exe"


def test_a_full_disk_is_told_once(redirect):
    redirect("/dev/full")
    with standard_streams():
        print("lost")
        with pytest.raises(OSError, match="standard output") as error:
            sys.stdout.flush()
        print("lost, too", flush=True)
    assert error.value.errno == errno.ENOSPC
