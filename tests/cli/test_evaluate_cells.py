"""Evaluation of a classifier on a few synthetic cells, and prediction on the same cells."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import save_run, small_model
from wbcnets.cli.main import main
from wbcnets.errors import ConfigError
from wbcnets.evaluation.evaluate import evaluate_classifier

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
    model.pretrained_cfg.update(input_size=(3, 32, 32), test_input_size=None)
    save_for_hf(model, folder, model_config={"label_names": NAMES}, safe_serialization=True)
    return folder


@pytest.fixture
def cells(tmp_path):
    folder = tmp_path / "cells"
    generator = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            pixels = generator.integers(0, 60, (32, 32, 3)) + 180 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}{index}.png")
    return folder


def evaluate(model_folder, cells, output, *options):
    arguments = ["--weights", str(model_folder), "--data", str(cells), "--split", ""]
    arguments += ["--workers", "0", "--bootstrap", "20", "--output", str(output), *options]
    return main(["evaluate", "cells", *arguments])


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


def test_evaluation_writes_everything(model_folder, cells, tmp_path, capsys):
    output = tmp_path / "out"
    assert evaluate(model_folder, cells, output) == 0
    content = read_metrics(output)
    assert content["images"] == 12
    rows = list(csv.DictReader((output / "predictions.csv").open()))
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert content["overall"]["accuracy"] == pytest.approx(right / 12)
    assert "| accuracy |" in (output / "report.md").read_text()
    assert f"--data {cells} --split '' --workers 0" in content["about"][-1]
    assert content["about"][-1].startswith("Command: `wbcnets evaluate cells --weights")
    table = list(csv.DictReader((output / "metrics.csv").open()))
    assert float(table[0]["value"]) == content["overall"][table[0]["metric"]]
    for name in ("confusion_matrix.png", "roc.png", "reliability.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 300
    assert (output / "worst_mistakes.png").exists() == (right < 12)
    assert "metrics.json" in (output / "README.txt").read_text()
    options = ["--compare", str(output / "predictions.csv"), "--tta", "flips"]
    assert evaluate(model_folder, cells, tmp_path / "again", *options) == 0
    assert "McNemar" in capsys.readouterr().out


def test_python_gives_the_metrics_that_the_command_writes(model_folder, cells, tmp_path):
    assert evaluate(model_folder, cells, tmp_path / "out") == 0
    metrics = evaluate_classifier(model_folder, cells, split="", workers=0, resamples=20)
    assert (
        json.loads(json.dumps(metrics.as_dict())).items() <= read_metrics(tmp_path / "out").items()
    )
    merged = evaluate_classifier(
        model_folder,
        cells,
        split="",
        class_map={"dark": ["dark", "light"]},
        workers=0,
        resamples=0,
        output=tmp_path / "merged",
    )
    assert merged.overall["accuracy"] == 1
    assert "Command" not in (tmp_path / "merged" / "report.md").read_text()


def test_comparison_without_a_folder_is_an_error(model_folder, cells):
    with pytest.raises(ConfigError, match="name a folder"):
        evaluate_classifier(model_folder, cells, compare_with="predictions.csv")


def test_other_classes_need_a_map(model_folder, cells, tmp_path, capsys):
    (cells / "light").rename(cells / "bright")
    assert evaluate(model_folder, cells, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "see --class-map" in error
    assert "bright" in error
    (tmp_path / "map.yaml").write_text("bright: light\n")
    options = ["--class-map", str(tmp_path / "map.yaml")]
    assert evaluate(model_folder, cells, tmp_path / "out", *options) == 0
    content = read_metrics(tmp_path / "out")
    assert content["images"] == 6
    assert any("6 left out" in line for line in content["about"])


def test_predictions_of_files_equal_those_of_the_evaluation(model_folder, cells, tmp_path):
    assert evaluate(model_folder, cells, tmp_path / "out") == 0
    table = tmp_path / "cells.csv"
    options = ["--weights", str(model_folder), "--input", str(cells), "--output", str(table)]
    assert main(["predict", "cells", *options]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    named = {Path(row["file"]).name: row for row in csv.DictReader(table.open())}
    for row in rows:
        assert named[Path(row["file"]).name]["light"] == row["light"]


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
    comparison = read_metrics(output)["comparison"]
    assert comparison["only_first"] + comparison["only_second"] == 1
    assert evaluate(model_folder, cells, output) == 0
    assert not (output / "disagreements.csv").exists()


def test_map_to_several_classes_of_the_model_merges_them(model_folder, cells, tmp_path):
    (cells / "light" / "light0.png").rename(cells / "dark" / "light0.png")
    (tmp_path / "map.yaml").write_text("dark: [dark, light]\n")
    output = tmp_path / "out"
    assert evaluate(model_folder, cells, output, "--class-map", str(tmp_path / "map.yaml")) == 0
    content = read_metrics(output)
    assert content["overall"]["accuracy"] == 1
    assert content["overall"]["auroc_macro"] is None
    assert list(content["per_class"]) == ["dark"]
    assert any("5 left out by the class map, 5 light" in line for line in content["about"])


def test_metrics_of_each_class_have_intervals(model_folder, cells, tmp_path):
    assert evaluate(model_folder, cells, tmp_path / "out") == 0
    content = read_metrics(tmp_path / "out")
    assert set(content["per_class_intervals"]) == set(NAMES)
    assert content["bootstrap"]["unit"] == "image"
    assert "Precision: float32" in content["about"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--compare", "nowhere.csv"], 1, "nowhere.csv: is not a table of predictions"),
        (["--class-map", "nowhere.yaml"], 2, "nowhere.yaml: the YAML file does not exist"),
        (["--split", "test"], 1, "test"),
        (["--device", "gpu"], 2, "device 'gpu' is unknown"),
        (["--weights", "nowhere.pth"], 2, "nowhere.pth: no such file"),
        (["--output", "{file}"], 2, "is a file; name a folder; see --output"),
    ],
)
def test_bad_inputs_are_errors_before_the_model_runs(
    options, code, message, model_folder, cells, tmp_path, capsys
):
    (tmp_path / "file").touch()
    options = [option.format(file=tmp_path / "file") for option in options]
    assert evaluate(model_folder, cells, tmp_path / "out", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "setting"),
    [("--batch-size", "batch_size"), ("--bootstrap", "resamples"), ("--workers", "workers")],
)
def test_numbers_out_of_range_are_errors(option, setting, model_folder, cells, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate(model_folder, cells, tmp_path / "out", option, "-1")
    assert stop.value.code == 2
    assert f"{option}: -1 is out of range" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"{setting} -1 is out of range") as error:
        evaluate_classifier(model_folder, cells, **{setting: -1})
    assert error.value.setting == setting


def test_a_laboratory_with_a_few_of_the_classes(tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    make_class_folders(tmp_path / "cells" / "one", {"a": 3, "c": 2, "unknown": 2})
    make_class_folders(tmp_path / "cells" / "two", {"a": 1}, start=50)
    table = ["file,label,split"]
    table += [
        f"{path.relative_to(tmp_path).as_posix()},{path.parent.name},lab_{path.parent.parent.name}"
        for path in sorted((tmp_path / "cells").rglob("*.png"))
    ]
    (tmp_path / "cells.csv").write_text("\n".join(table))
    words = ["--weights", str(tmp_path / "best.pth"), "--data", str(tmp_path / "cells.csv")]
    words += ["--split", "lab_one+lab_two", "--bootstrap", "0", "--workers", "0"]
    assert main(["evaluate", "cells", *words, "--output", str(tmp_path / "out")]) == 1
    assert "classes that the model lacks" in capsys.readouterr().err
    assert (
        main(["evaluate", "cells", *words, "--only-present", "--output", str(tmp_path / "report")])
        == 0
    )
    report = (tmp_path / "report" / "report.md").read_text()
    assert "6 images, 2 left out by the class map, 2 unknown" in report
    assert "| a |" in report
    assert "| b |" not in report
