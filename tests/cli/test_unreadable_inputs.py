"""Inputs that are no files, or cannot exist, are refused at once, by commands and in Python."""

import os

import pytest

import wbcnets
from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import save_run, small_model
from wbcnets.cli.main import main
from wbcnets.errors import WbcnetsError

CPU = ["--device", "cpu"]
EVALUATE = ["evaluate", "cells", "--weights", "best.pth", "--data", "cells", *CPU]
PREDICT = ["predict", "smears", "--input", "cells", *CPU]
TRAIN = ["train", "cells", "--data", "cells", "model.name=test_resnet", "training.batch_size=2"]
# The words before the pipe, and those after it
COMMANDS = {
    "check": (["check"], []),
    "check zip": (["check"], []),
    "check yolo": (["check", "--format", "yolo"], []),
    "prepare": (["prepare", "cells", "--output", "new", "--source"], []),
    "prepare npz": (["prepare", "bloodmnist", "--output", "new", "--source"], []),
    "predict weights": (["predict", "cells", "--input", "cells", *CPU, "--weights"], []),
    "predict list": (["predict", "cells", "--weights", "best.pth", *CPU, "--input"], []),
    "class map": ([*EVALUATE, "--class-map"], []),
    "compare": ([*EVALUATE, "--compare"], []),
    "config": (["train", "cells", "--data", "cells", "--output", "new", "--config"], []),
    "start weights": (TRAIN, ["data.img_size=32", "device=cpu", "--output", "new"]),
    "detector": ([*PREDICT, "--weights"], []),
    "detector config": ([*PREDICT, "--weights", "mfds_detr_tiny_bccd", "--config"], []),
    "sdist": (["install-detectron2", "--force", "--dry-run", "--sdist"], []),
}
SUFFIXES = {
    "check zip": ".zip",
    "prepare npz": ".npz",
    "predict list": ".txt",
    "class map": ".yaml",
    "compare": ".csv",
    "config": ".yaml",
    "detector config": ".yaml",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with cells and the weights of a classifier for them."""
    make_class_folders(tmp_path / "cells", {"a": 3, "b": 3, "c": 3})
    save_run(tmp_path / "best.pth", small_model())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_waits_for_a_pipe(command, place, capsys):
    if "detector" in command:
        pytest.importorskip("detectron2")
    pipe = f"pipe{SUFFIXES.get(command, '.pth')}"
    os.mkfifo(pipe)
    before, after = COMMANDS[command]
    word = f"model.weights={pipe}" if command == "start weights" else pipe
    assert main([*before, word, *after]) in (1, 2)
    shown = capsys.readouterr()
    assert pipe in shown.out + shown.err


CALLS = {
    "check": lambda path: wbcnets.check(path).exit_code,
    "load_classifier": lambda path: wbcnets.load_classifier(path, "cpu"),
    "predict": lambda path: wbcnets.load_classifier("best.pth", "cpu").predict(path),
    "data": lambda path: wbcnets.train_classifier(path, "new", "test_resnet"),
    "output": lambda path: wbcnets.train_classifier("cells", path, "test_resnet"),
    "preset": lambda path: wbcnets.train_classifier("cells", "new", "test_resnet", preset=path),
    "evaluation": lambda path: wbcnets.evaluate("best.pth", path, split="", device="cpu"),
    "report": lambda path: wbcnets.evaluate("best.pth", "cells", output=path, device="cpu"),
    "detector": lambda path: wbcnets.load_detector(path, device="cpu"),
    "smears": lambda path: wbcnets.train_detector((path, path), output="new"),
    "images": lambda path: wbcnets.train_detector(("smears.json", path), output="new"),
    "detector output": lambda path: wbcnets.train_detector("bccd_train", output=path),
}


@pytest.mark.parametrize(
    "path",
    ["best.pth/out", "/".join(["d" * 100] * 50), "n" * 300, "a\0b", "lost", "circle/x", "s\udcff"],
    ids=["below a file", "long", "long name", "null byte", "lost link", "circle", "no UTF-8"],
)
@pytest.mark.parametrize("call", CALLS)
def test_impossible_paths_raise_the_errors_of_the_library(call, path, place):
    if call in ("detector", "smears", "images", "detector output"):
        pytest.importorskip("detectron2")
    (place / "lost").symlink_to("gone")
    (place / "circle").symlink_to("circle")
    (place / "smears.json").write_text('{"images": [], "annotations": [], "categories": []}')
    if call == "check":
        assert CALLS[call](path) == 2
        return
    with pytest.raises(WbcnetsError):
        CALLS[call](path)
