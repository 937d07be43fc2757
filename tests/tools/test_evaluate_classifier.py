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


def evaluate(model_folder, cells, output, *options):
    tool = load_tool("evaluate_classifier")
    arguments = ["--weights", str(model_folder), "--data", str(cells), "--split", ""]
    arguments += ["--workers", "0", "--bootstrap", "20", "--output", str(output), *options]
    return tool.main(arguments)


def test_comparison_writes_a_table_of_disagreements(model_folder, cells, tmp_path):
    assert evaluate(model_folder, cells, tmp_path / "first") == 0
    table = tmp_path / "first" / "predictions.csv"
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream))
    # Another classifier that takes the first image for the other class
    row = rows[1]
    row[2] = NAMES[1 - NAMES.index(row[2])]
    row[4:] = row[4:][::-1]
    with (tmp_path / "other.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    output = tmp_path / "second"
    assert evaluate(model_folder, cells, output, "--compare", str(tmp_path / "other.csv")) == 0
    with (output / "disagreements.csv").open(newline="") as stream:
        (found,) = csv.DictReader(stream)
    assert found["file"] == row[0]
    assert found["other"] == row[2]
    comparison = json.loads((output / "metrics.json").read_text())["comparison"]
    assert comparison["only_first"] + comparison["only_second"] == 1
    assert evaluate(model_folder, cells, output) == 0
    assert not (output / "disagreements.csv").exists()


def test_map_onto_several_classes_of_the_model_joins_them(model_folder, cells, tmp_path):
    (cells / "light" / "light0.png").rename(cells / "dark" / "light0.png")
    (tmp_path / "map.yaml").write_text("dark: [dark, light]\n")
    output = tmp_path / "out"
    assert evaluate(model_folder, cells, output, "--class-map", str(tmp_path / "map.yaml")) == 0
    content = json.loads((output / "metrics.json").read_text())
    assert content["overall"]["accuracy"] == 1
    assert content["overall"]["auroc_macro"] is None
    assert list(content["per_class"]) == ["dark"]
    assert any("5 left out by the class map, 5 light" in line for line in content["about"])


def test_figures_of_each_class_have_intervals(model_folder, cells, tmp_path):
    assert evaluate(model_folder, cells, tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(content["per_class_intervals"]) == set(NAMES)
    assert content["bootstrap"]["unit"] == "image"
    assert "Precision: float32" in content["about"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0 is out of range"),
        (["--bootstrap", "-1"], "--bootstrap -1 is out of range"),
        (["--compare", "nowhere.csv"], "nowhere.csv: no table of predictions"),
        (["--class-map", "nowhere.yaml"], "nowhere.yaml: no readable YAML"),
        (["--split", "test"], "test"),
    ],
)
def test_bad_options_are_errors_before_the_model_works(
    options, message, model_folder, cells, tmp_path, capsys
):
    assert evaluate(model_folder, cells, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_an_error(cells, tmp_path, capsys):
    tool = load_tool("predict_cells")
    options = ["--weights", "nowhere.pth", "--input", str(cells)]
    assert tool.main([*options, "--output", str(tmp_path / "x.csv")]) == 2
    assert "nowhere.pth" in capsys.readouterr().err
