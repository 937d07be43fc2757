import csv
import json
import zipfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.data.cells.cell_images import save_cell
from tests.data.cells.test_cutting import FIELD, write_fields
from tests.evaluation.small_classifier import save_run, small_model
from wbcnets.cli.main import main
from wbcnets.data.cells.cutting import cut_cell
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predictions import Predictions

NAMES = ("lymphocyte", "monocyte", "platelet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A run's checkpoint of a random model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.pth"
    checkpoint = {
        "state_dict": timm.create_model("resnet10t", num_classes=3).state_dict(),
        "model": {"name": "resnet10t", "kwargs": {}, "num_classes": 3},
        "class_names": list(NAMES),
        "data_config": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture
def cells(tmp_path):
    for index, name in enumerate(("b.png", "a.png", "deeper/c.png")):
        save_cell(tmp_path / "cells" / name, index)
    return tmp_path / "cells"


def predict(weights, inputs, table, *options):
    arguments = ["--weights", weights, "--input", *map(str, inputs), "--output", str(table)]
    return main(["predict", "cells", *arguments, "--device", "cpu", *options])


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_table_has_the_models_probabilities(weights, cells, tmp_path):
    table = tmp_path / "deep" / "er" / "cells.csv"
    assert predict(weights, [cells], table) == 0
    rows = read_rows(table)
    assert [row["file"] for row in rows] == ["a.png", "b.png", "deeper/c.png"]
    classifier = load_classifier(weights)
    for row in rows:
        with Image.open(cells / row["file"]) as image:
            pixels = classifier.resize(np.asarray(image), seed=0)
        x = (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - 0.5) / 0.25
        with torch.inference_mode():
            expected = classifier.model(x[None]).softmax(dim=1)[0]
        assert [float(row[name]) for name in NAMES] == pytest.approx(expected.tolist(), abs=2e-6)
        assert row["predicted"] == NAMES[int(expected.argmax())]
        assert float(row["probability"]) == pytest.approx(float(expected.max()), abs=2e-6)
    assert not (table.parent / "unreadable.csv").exists()


def test_batches_and_kinds_of_input_change_nothing(weights, cells, tmp_path):
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for name in ("a.png", "b.png", "deeper/c.png"):
            stream.write(cells / name, name)
    (cells / "list.txt").write_text("a.png\nb.png\ndeeper/c.png\n")
    tables = []
    for index, (source, size) in enumerate(
        ((cells, "64"), (archive, "2"), (cells / "list.txt", "1"), (f"{cells}/**/*.png", "3"))
    ):
        table = tmp_path / f"{index}.csv"
        assert predict(weights, [source], table, "--batch-size", size) == 0
        tables.append(np.array([[float(row[name]) for name in NAMES] for row in read_rows(table)]))
    for other in tables[1:]:
        np.testing.assert_allclose(other, tables[0], atol=2e-6)


def test_augmentation_makes_a_turned_image_equal(weights, cells, tmp_path):
    with Image.open(cells / "a.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(cells / "turned.png")
    inputs = [cells / "a.png", cells / "turned.png"]
    found = {}
    for tta in ("none", "d4"):
        assert predict(weights, inputs, tmp_path / "x.csv", "--tta", tta) == 0
        found[tta] = [float(row["monocyte"]) for row in read_rows(tmp_path / "x.csv")]
    assert found["none"][0] != pytest.approx(found["none"][1], abs=1e-5)
    assert found["d4"][0] == pytest.approx(found["d4"][1], abs=1e-5)


def test_unreadable_images_are_named_and_a_later_call_clears_them(weights, cells, tmp_path, capsys):
    table = tmp_path / "cells.csv"
    (cells / "broken.png").write_bytes(b"no image")
    (cells / "empty.jpg").write_bytes(b"")
    assert predict(weights, [cells], table) == 1
    errors = capsys.readouterr().err
    assert "broken.png" in errors
    assert "empty.jpg" in errors
    assert len(read_rows(table)) == 3
    unreadable = read_rows(tmp_path / "unreadable.csv")
    assert [row["file"] for row in unreadable] == ["broken.png", "empty.jpg"]
    assert all(row["reason"] for row in unreadable)
    assert predict(weights, [cells / "a.png"], table) == 0
    assert read_rows(tmp_path / "unreadable.csv") == []


def test_nothing_readable_leaves_an_empty_table(weights, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "cells.csv").write_text("file,true,predicted,probability,of an earlier call\n")
    assert predict(weights, [tmp_path / "broken.png"], tmp_path / "cells.csv") == 1
    header = ["file", "true", "predicted", "probability", *NAMES]
    assert (tmp_path / "cells.csv").read_text().strip().split(",") == header


def test_table_of_someone_else_is_not_written_over(weights, cells, tmp_path, capsys):
    (tmp_path / "unreadable.csv").write_text("student,grade\nada,1\n")
    assert predict(weights, [cells], tmp_path / "cells.csv") == 2
    assert "unreadable.csv: exists, and was not written by" in capsys.readouterr().err
    assert (tmp_path / "unreadable.csv").read_text() == "student,grade\nada,1\n"
    assert not (tmp_path / "cells.csv").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--device", "gpu"], 2, "device 'gpu' is unknown"),
        (["--weights", "nowhere.pth"], 2, "nowhere.pth: no such file"),
        (["--input", "nowhere"], 1, "nowhere: no such file or folder"),
    ],
)
def test_bad_inputs_are_errors(options, code, message, weights, cells, tmp_path, capsys):
    assert predict(weights, [cells], tmp_path / "cells.csv", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cells.csv").exists()


def test_batch_size_out_of_range_is_an_error(weights, cells, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        predict(weights, [cells], tmp_path / "cells.csv", "--batch-size", "0")
    assert stop.value.code == 2
    assert "--batch-size: 0 is out of range" in capsys.readouterr().err


def test_table_cannot_have_the_name_of_the_table_of_unreadable_images(
    weights, cells, tmp_path, capsys
):
    assert predict(weights, [cells], tmp_path / "unreadable.csv") == 2
    assert "use another one" in capsys.readouterr().err
    assert not (tmp_path / "unreadable.csv").exists()


def test_weights_without_classes_are_an_error(cells, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    assert predict(str(tmp_path), [cells], tmp_path / "cells.csv") == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_cells_in_boxes_are_cut_as_for_training(tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    (tmp_path / "fields").mkdir()
    boxes = write_fields(tmp_path / "fields")
    words = ["--weights", str(tmp_path / "best.pth"), "--boxes", str(boxes), "--context", "2"]
    words += ["--input", str(tmp_path / "fields"), "--output", str(tmp_path / "cells.csv")]
    assert main(["predict", "cells", *words]) == 0
    found = Predictions.from_csv(tmp_path / "cells.csv")
    assert found.files == ("a.png#0", "a.png#1")
    crop = cut_cell(FIELD, (30, 20, 10, 10), 2.0)
    [expected] = load_classifier(tmp_path / "best.pth").predict(crop)
    np.testing.assert_allclose(
        found.probabilities[0], list(expected.probabilities.values()), atol=1e-5
    )
    assert main(["predict", "cells", *words, "--context", "0.5"]) == 2
    assert "must lie in [1, 8]" in capsys.readouterr().err
    assert main(["predict", "cells", *words, "--input", "a", "b"]) == 2
    assert "one folder of fields" in capsys.readouterr().err
