"""No command replaces inputs, data, earlier runs or files of others: it stops before any work."""

import json

import pytest

from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import save_run, small_model
from tests.stress.faults.builders import write_coco
from wbcnets.cli.main import main
from wbcnets.io.outputs import README_NAME, OutputLock


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data, weights, a list and an essay."""
    write_coco(tmp_path / "smears")
    make_class_folders(tmp_path / "cells", {"a": 3, "b": 3, "c": 3})
    save_run(tmp_path / "best.pth", small_model())
    (tmp_path / "list.txt").write_text("cells/a/0.png\n")
    for name in ("README.txt", "log.csv"):
        (tmp_path / "essay").mkdir(exist_ok=True)
        (tmp_path / "essay" / name).write_text("years of work\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CHECK = ["check", "smears/train.json", "--images", "smears/images"]
PREDICT = ["predict", "cells", "--weights", "best.pth", "--input", "cells", "list.txt"]
EVALUATE = ["evaluate", "cells", "--weights", "best.pth", "--data", "cells", "--split", ""]
TRAIN = ["train", "cells", "--data", "cells", "model.name=test_resnet", "data.img_size=32"]
EXPORT = ["export", "cells", "--weights", "best.pth"]
PREPARE = ["prepare", "cells", "--source", "cells", "--protocol", "8:2"]
SHOW = ["datasets", "show", "smears/train.json", "--images", "smears/images"]


@pytest.mark.parametrize(
    ("words", "output", "message"),
    [
        (CHECK, ["--json", "smears/train.json"], "is an input"),
        (CHECK, ["--json", "smears/images/a.png"], "exists"),
        (CHECK, ["--json", "essay"], "is a folder"),
        (CHECK, ["--fix-to", "essay"], "holds files that"),
        (CHECK, ["--fix-to", "smears/images"], "is or holds an input"),
        (CHECK, ["--fix-to", "smears/images/fixed"], "lies in the data folder"),
        (["check", "cells"], ["--fix-to", "cells/fixed"], "lies in the data folder"),
        (PREDICT, ["--output", "cells/a/0.png"], "exists"),
        (PREDICT, ["--output", "best.pth"], "is an input"),
        (PREDICT, ["--output", "list.txt"], "is an input"),
        (PREDICT, ["--output", "essay/log.csv"], "exists"),
        (PREDICT, ["--output", "cells"], "is a folder"),
        (EVALUATE, ["--output", "essay"], "holds files that"),
        (EVALUATE, ["--output", "."], "is or holds an input"),
        (EVALUATE, ["--output", "cells/evaluation"], "lies in the data folder"),
        (TRAIN, ["--output", "cells"], "is or holds an input"),
        (TRAIN, ["--output", "cells/run"], "lies in the data folder"),
        (TRAIN, ["--output", "essay"], "holds files that"),
        (TRAIN, ["--output", "list.txt"], "is a file"),
        (EXPORT, ["--output", "essay"], "holds files that"),
        (EXPORT, ["--output", "list.txt"], "is a file"),
        (PREPARE, ["--output", "essay"], "holds files that"),
        (PREPARE, ["--output", "cells"], "is or holds an input"),
        (SHOW, ["--output", "smears/images/a.png"], "exists"),
        (SHOW, ["--output", "sheet.pdf"], "must end in .png"),
        (["benchmark", "--case", "kan/forward"], ["--output", "essay"], "holds files that"),
        (["smears", "--images", "1"], ["--output", "essay"], "holds files that"),
    ],
)
def test_the_command_stops_before_it_writes(words, output, message, place, capsys):
    before = snapshot(place)
    assert main([*words, *output]) == 2
    error = capsys.readouterr().err
    assert f"error: {output[1]}: {message}" in error
    if "must end" not in message:
        assert f"see {output[0]}" in error
    assert snapshot(place) == before


def test_every_command_may_write_its_own_files_again(place):
    for _ in range(2):
        assert main([*CHECK, "--json", "found.json"]) == 0
        assert main([*PREDICT, "--output", "cells.csv"]) == 0
        assert main([*EVALUATE, "--output", "evaluation", "--bootstrap", "0"]) == 0
        assert main([*SHOW, "--output", "sheet.png"]) == 0
        assert main(["smears", "--images", "1", "--size", "80x60", "--output", "drawn"]) == 0
    assert json.loads((place / "found.json").read_text())["written_by"] == "wbcnets check"
    assert "cells.csv" not in {path.name for path in (place / "cells").rglob("*")}


def test_a_preparation_is_not_replaced(place, capsys):
    words = [*PREPARE, "--output", "prepared", "--allow-rare"]
    assert main(words) == 0
    before = snapshot(place)
    assert main(words) == 2
    assert "prepared: holds an earlier result" in capsys.readouterr().err
    assert snapshot(place) == before


@pytest.mark.parametrize("output", ["model.safetensors", "model"])
def test_exported_weights_are_not_replaced(output, place, capsys):
    assert main([*EXPORT, "--output", output]) == 0
    before = snapshot(place)
    assert main([*EXPORT, "--output", output]) == 2
    assert f"error: {output}: " in capsys.readouterr().err
    assert snapshot(place) == before


def test_a_training_that_failed_early_can_be_started_again(place, capsys):
    words = ["train", "cells", "--output", "run", "model.name=test_resnet"]
    assert main([*words, "--data", "nowhere"]) != 0
    assert main([*words, "--data", "nowhere"]) != 0
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([*CHECK, "--fix-to"], "check"),
        ([*EVALUATE, "--output"], "evaluate cells"),
        ([*TRAIN, "--output"], "train cells"),
        (["train", "cells", "--resume", "--output"], "train cells"),
        ([*EXPORT, "--output"], "export cells"),
        ([*PREPARE, "--output"], "prepare"),
        (["benchmark", "--case", "kan/forward", "--output"], "benchmark"),
        (["smears", "--images", "1", "--output"], "smears"),
    ],
)
def test_a_folder_that_a_process_is_writing_is_left_to_it(words, name, place, capsys):
    folder = place / "taken"
    folder.mkdir()
    (folder / README_NAME).write_text(f"Written by wbcnets {name}.\n")
    (folder / "config.yaml").write_text("data:\n  source: cells\n")
    with OutputLock(folder, name):
        before = snapshot(place)
        assert main([*words, "taken"]) == 2
        assert snapshot(place) == before
    error = capsys.readouterr().err
    assert f"error: taken: is being written by wbcnets {name}, process " in error
    assert "see --output" in error or "see --fix-to" in error
