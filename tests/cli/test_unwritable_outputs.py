"""An output that cannot be written is refused first: before weights or data are even looked for."""

import os

import pytest

from tests.processes import Worker
from wbcnets.cli.main import main
from wbcnets.io.outputs import check_folder, claim_file

CELLS = ["--weights", "nowhere.pth", "--device", "cpu"]
DETECTOR = ["--weights", "nowhere.pth", "--device", "cpu"]
SMEARS = ["nowhere.json", "--images", "nowhere"]
# The option that names the output, its suffix, and the other words
COMMANDS = {
    "check json": ("--json", ".json", ["check", *SMEARS]),
    "check fix": ("--fix-to", "", ["check", *SMEARS]),
    "predict cells": ("--output", ".csv", ["predict", "cells", *CELLS, "--input", "nowhere"]),
    "evaluate cells": ("--output", "", ["evaluate", "cells", *CELLS, "--data", "nowhere"]),
    "train cells": ("--output", "", ["train", "cells", "--data", "nowhere"]),
    "export file": ("--output", ".safetensors", ["export", "cells", *CELLS[:2]]),
    "export folder": ("--output", "", ["export", "cells", *CELLS[:2]]),
    "prepare": ("--output", "", ["prepare", "cells", "--source", "nowhere"]),
    "show": ("--output", ".png", ["datasets", "show", *SMEARS]),
    "smears": ("--output", "", ["smears"]),
    "preview": ("--preview", ".png", ["smears", "--output", "drawn"]),
    "benchmark": ("--output", "", ["benchmark", "--case", "kan/forward"]),
    "predict smears": ("--output", "", ["predict", "smears", *DETECTOR, "--input", "nowhere"]),
    "evaluate smears": ("--output", "", ["evaluate", "smears", *DETECTOR, "--data", "a:nowhere"]),
    "export smears": ("--output", ".safetensors", ["export", "smears", *DETECTOR[:2]]),
    "train smears": ("--output", "", ["train", "smears", "--weights", "nowhere.pth"]),
}
PATHS = {
    "below a file": ("file/out", "Not a directory"),
    "long path": ("/".join(["d" * 100] * 50) + "/out", "File name too long"),
    "long name": ("n" * 300, "File name too long"),
    "null byte": ("a\0b", "null byte"),
    "no UTF-8": ("s\udcff", "can't encode"),
    "no folder": ("/proc/out", "No such file"),
    "broken link": ("broken", "link that leads nowhere"),
    "circle of links": ("circle/out", "symbolic links"),
    "pipe": ("pipe", "exists|is a file"),
    "device": ("/dev/full", "must end in|exists|is a file"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a file, a link to nothing, a circle of links and pipes."""
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "circle").symlink_to("circle")
    for suffix in {suffix for _, suffix, _ in COMMANDS.values()}:
        (tmp_path / f"broken{suffix}").symlink_to("gone/gone")
        os.mkfifo(tmp_path / f"pipe{suffix}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_output_is_the_first_thing_to_be_refused(command, kind, place, capsys):
    if "smears" in command.split()[1:]:
        pytest.importorskip("detectron2")
    option, suffix, words = COMMANDS[command]
    path, reason = PATHS[kind]
    before = sorted(place.rglob("*"))
    assert main([*words, option, path if kind == "device" else path + suffix]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path[:20]}" if path.isprintable() else "error: ")
    assert any(text in error for text in reason.split("|"))
    assert f"see {option}" in error
    assert "nowhere" not in error.replace("leads nowhere", "")
    assert len(error) < 700
    assert sorted(place.rglob("*")) == before


def test_a_trial_leaves_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b", "check")
    assert not list(tmp_path.iterdir())
    claim_file(tmp_path / "a" / "b.csv")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path):
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    (folder / "a.xml").write_text("<no")
    worker = Worker(tmp_path / "log.txt", main, ["check", str(folder)])
    assert worker.wait() == 1
    assert r"bad\udcff" in worker.text
