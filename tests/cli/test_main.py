"""The dispatcher: lazy imports, the errors' boundary, the detector's entry points, completion."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from wbcnets import api
from wbcnets.cli import main as dispatcher
from wbcnets.cli.main import COMMANDS, PAIRS, CommandParser, describe, main
from wbcnets.cli.options import add_option
from wbcnets.errors import CheckpointError, ConfigError, DataError


def parse_command(run, add_arguments, words):
    """Parses the words of a command whose module is made up."""
    module = SimpleNamespace(__doc__="Tests.\n\nMore.", add_arguments=add_arguments, run=run)
    return CommandParser(prog="test", load=lambda: module).parse_args(words)


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of ``wbcnets check``."""

    def replace(run, add_arguments=lambda parser: None):
        module = SimpleNamespace(__doc__="Tests.", add_arguments=add_arguments, run=run)
        monkeypatch.setattr(dispatcher, "import_command", lambda name: module)

    return replace


def test_help_names_every_command_and_imports_none():
    code = """
import sys
from wbcnets.cli.main import main
for words in (["--help"], ["train", "--help"]):
    try:
        main(words)
    except SystemExit as end:
        print("code", end.code)
heavy = ("detectron2", "mfds_detr", "sklearn", "matplotlib")
print(*(name for name in sys.modules if name.startswith("wbcnets.cli.") or name in heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top, train, imported = done.stdout.split("code 0\n")
    assert all(name in top for name in COMMANDS)
    assert all(summary in " ".join(train.split()) for summary in PAIRS["train"])
    assert imported == "wbcnets.cli.streams wbcnets.cli.main\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("bad"), 1),
        (ConfigError("bad"), 2),
        (CheckpointError("bad"), 2),
        (FloatingPointError("bad"), 2),
        (FileNotFoundError("bad"), 2),
    ],
)
def test_errors_become_exit_codes(command, capsys, error, code):
    def fail(args):
        raise error

    command(fail)
    assert main(["check"]) == code
    assert capsys.readouterr().err == "error: bad\n"


def test_an_interruption_ends_with_130(command):
    def interrupt(args):
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["check"]) == 130


@pytest.fixture
def interruptible():
    """Handles SIGINT as a command does, also if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
def test_a_signal_ends_the_command_with_its_code(command, interruptible, capsys, number, code):
    def wait(args):
        os.kill(os.getpid(), getattr(signal, number))
        time.sleep(10)

    command(wait)
    assert main(["check"]) == code
    assert capsys.readouterr().err == ("interrupted\n" if code == 130 else "terminated\n")


def test_what_an_interruption_breaks_is_no_bug(command, interruptible, capsys):
    def swallow(args):
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raise TypeError("half an import")

    command(swallow)
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "the memory is full, or limited to too little: use smaller"),
        (RuntimeError("can't start new thread"), "no more threads can be started: raise"),
        (
            RuntimeError("open: Too many open files (24)\nat x"),
            "too many files are open: raise the",
        ),
    ],
)
def test_a_limit_of_the_machine_is_an_error_without_a_traceback(command, capsys, error, message):
    def fail(args):
        raise error

    command(fail)
    assert main(["check"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert len(shown.splitlines()) == 1


def test_an_error_names_the_option_that_sets_its_argument(command, capsys):
    def fail(args):
        raise ConfigError("device 'tpu' is unknown", setting="device")

    command(fail, lambda parser: add_option(parser, "device"))
    main(["check"])
    assert capsys.readouterr().err == "error: device 'tpu' is unknown; see --device\n"
    command(fail)  # has no such option
    main(["check"])
    assert capsys.readouterr().err == "error: device 'tpu' is unknown\n"


def test_a_list_of_problems_stays_a_list():
    parser = argparse.ArgumentParser()
    parser.add_argument("--class-map")
    error = DataError("wrong:", ["first", "second"], setting="class_map")
    assert describe(error, parser).splitlines()[-2:] == ["  - second", "see --class-map"]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wbcnets.cli.check", None)
    with pytest.raises(ModuleNotFoundError):  # a bug of ours stays a traceback
        main(["check"])

    def missing(name):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(dispatcher.importlib, "import_module", missing)
    assert main(["check"]) == 2
    assert "'sklearn'; run: pip install 'wbcnets[train]'" in capsys.readouterr().err


def test_the_detector_is_found_through_its_entry_point(monkeypatch, capsys):
    asked = []
    module = SimpleNamespace(
        __doc__="Tests.", add_arguments=lambda parser: None, run=lambda args: 7
    )
    entry = SimpleNamespace(load=lambda: module)

    def find(**query):
        asked.append(query)
        return [entry]

    monkeypatch.setattr(api, "entry_points", find)
    assert main(["train", "smears"]) == 7
    assert asked == [{"group": "wbcnets.smears", "name": "train"}]


def test_without_the_detector_the_error_says_how_to_install_it(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    for found in ([], [SimpleNamespace(load=missing)]):
        monkeypatch.setattr(api, "entry_points", lambda found=found, **query: found)
        assert main(["predict", "smears", "--help"]) == 2
        shown = capsys.readouterr().err
        assert "pip install 'wbcnets[detection]', then: wbcnets install-detectron2" in shown
    assert "No module named 'detectron2'" in shown


def test_options_may_stand_between_settings():
    def add_arguments(parser):
        add_option(parser, "output")
        parser.add_argument("overrides", nargs="*")

    args = parse_command(len, add_arguments, ["a=1", "--output", "x", "b=2"])
    assert args.overrides == ["a=1", "b=2"]
    assert args.run is len


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "0 is out of range; it must be 1 or more"),
        (["--batch-size", "1" + 30 * "0"], "it must be 1,000,000,000 or less"),
        (["--seed", "4294967296"], "it must be 4,294,967,295 or less"),
        (["--batch-size", "x"], "invalid whole number value: 'x'"),
        (["--threshold", "2"], "2 is out of range; it must lie in [0, 1]"),
        (["--amp", "x"], "choose from"),
    ],
)
def test_options_out_of_range(capsys, words, message):
    def add_arguments(parser):
        for name in ("batch-size", "threshold", "amp", "seed"):
            add_option(parser, name)

    with pytest.raises(SystemExit) as caught:
        parse_command(len, add_arguments, words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_the_docstring_and_the_defaults_that_say_something(capsys):
    def add_arguments(parser):
        add_option(parser, "seed")
        add_option(parser, "output")
        parser.add_argument("--names", nargs="+", default=(), help="several")

    with pytest.raises(SystemExit):
        parse_command(len, add_arguments, ["--help"])
    shown = capsys.readouterr().out
    assert shown.index("Tests.") < shown.index("(default: 0)") < shown.index("More.")
    assert shown.count("default:") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_options_and_leaves_out_what_is_not_installed(shell, monkeypatch, capsys):
    monkeypatch.setattr(api, "entry_points", lambda **query: [])
    assert main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--class-map", "--print-config", "smears"))
    assert "--threshold" not in shown  # an option of the detector
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=shown, text=True, check=True)
