"""The two commands that use a trained classifier, on a few made-up cells."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import wbcnets  # noqa: F401
from tests.tools.tool_modules import load_tool

NAMES = ("dark", "light")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model that knows dark from light images by their mean."""
    folder = tmp_path_factory.mktemp("model")
    model = timm.create_model("resnet10t", num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        model.fc.weight[0], model.fc.weight[1] = -1.0, 1.0
    config = {"label_names": list(NAMES), "input_size": (3, 32, 32)}
    save_for_hf(
        model,
        folder,
        model_config={"label_names": list(NAMES), "pretrained_cfg": {"label_names": list(NAMES)}},
        safe_serialization=True,
        data_config={**config, "input_size": (3, 32, 32)},
    )
    return folder


@pytest.fixture
def cells(tmp_path):
    folder = tmp_path / "cells"
    generator = np.random.default_rng(0)
    for place, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            pixels = generator.integers(0, 60, (32, 32, 3)) + 180 * place
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}{index}.png")
    return folder


def test_evaluation_writes_everything(model_folder, cells, tmp_path, capsys):
    tool, output = load_tool("evaluate_classifier"), tmp_path / "out"
    options = ["--weights", str(model_folder), "--data", str(cells), "--split", ""]
    options += ["--workers", "0", "--bootstrap", "50", "--output", str(output)]
    assert tool.main(options) == 0
    content = json.loads((output / "metrics.json").read_text())
    assert content["images"] == 12
    rows = list(csv.DictReader((output / "predictions.csv").open()))
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert content["overall"]["accuracy"] == pytest.approx(right / 12)
    assert "| accuracy |" in (output / "report.md").read_text()
    for name in ("confusion_matrix.png", "roc.png", "reliability.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 300
    assert (output / "worst_mistakes.png").exists() == (right < 12)
    assert "metrics.json" in (output / "README.txt").read_text()
    again = [*options[:-1], str(tmp_path / "again")]
    again += ["--compare", str(output / "predictions.csv"), "--views", "flips"]
    assert tool.main(again) == 0
    assert "McNemar" in capsys.readouterr().out


def test_other_classes_need_a_map(model_folder, cells, tmp_path, capsys):
    tool = load_tool("evaluate_classifier")
    (cells / "light").rename(cells / "bright")
    options = ["--weights", str(model_folder), "--data", str(cells), "--split", ""]
    options += ["--workers", "0", "--bootstrap", "0", "--output", str(tmp_path / "out")]
    assert tool.main(options) == 2
    error = capsys.readouterr().err
    assert "--class-map" in error
    assert "bright" in error
    (tmp_path / "map.yaml").write_text("bright: light\n")
    assert tool.main([*options, "--class-map", str(tmp_path / "map.yaml")]) == 0
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["images"] == 6
    assert any("6 left out" in line for line in content["about"])


def test_predictions_of_files_equal_those_of_the_evaluation(model_folder, cells, tmp_path):
    evaluation, prediction = load_tool("evaluate_classifier"), load_tool("predict_cells")
    judged = ["--weights", str(model_folder), "--data", str(cells), "--split", ""]
    judged += ["--workers", "0", "--bootstrap", "0", "--output", str(tmp_path / "out")]
    assert evaluation.main(judged) == 0
    table = tmp_path / "cells.csv"
    options = ["--weights", str(model_folder), "--input", str(cells), "--output", str(table)]
    assert prediction.main(options) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    named = {Path(row["file"]).name: row for row in csv.DictReader(table.open())}
    for row in rows:
        assert named[Path(row["file"]).name]["light"] == row["light"]


def test_unreadable_images_are_named_and_the_others_classified(model_folder, cells, tmp_path):
    tool, table = load_tool("predict_cells"), tmp_path / "cells.csv"
    (cells / "dark" / "broken.png").write_bytes(b"no image")
    options = ["--weights", str(model_folder), "--input", str(cells), "--output", str(table)]
    assert tool.main(options) == 1
    assert len(list(csv.DictReader(table.open()))) == 12
    (problem,) = csv.DictReader((tmp_path / "problems.csv").open())
    assert problem["file"].endswith("broken.png")


def test_weights_that_are_not_there_are_an_error(cells, tmp_path, capsys):
    tool = load_tool("predict_cells")
    options = ["--weights", "nowhere.pth", "--input", str(cells)]
    assert tool.main([*options, "--output", str(tmp_path / "x.csv")]) == 2
    assert "nowhere.pth" in capsys.readouterr().err
