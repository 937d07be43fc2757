"""Prediction on files: boxes and counts agree, and no image is lost."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mfds_detr.cli import predict
from mfds_detr.predict_files import name_overlays
from mfds_detr.predictor import LeukocytePredictor
from tests.mfds_detr.conftest import NAMES
from wbcnets.cli.main import run_command
from wbcnets.io.images import read_image
from wbcnets.io.tables import read_cell


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def run(*arguments: object) -> int:
    return run_command(predict, [str(argument) for argument in arguments])


def test_a_folder_with_a_damaged_image(trained, images, tmp_path, capsys):
    output = tmp_path / "out"
    threshold = 0.55
    code = run(
        *("--weights", trained.weights, "--input", images, "--output", output),
        *("--threshold", threshold, "--device", "cpu"),
    )
    assert code == 1
    assert "could not read 1 of 3 images" in capsys.readouterr().err

    coco = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "slide_1/b.jpg"]
    assert [(i["width"], i["height"]) for i in coco["images"]] == [(80, 60), (40, 80)]
    assert [category["name"] for category in coco["categories"]] == list(NAMES)
    annotations = coco["annotations"]
    assert annotations, "the threshold leaves nothing to compare"
    assert min(annotation["score"] for annotation in annotations) >= threshold
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))

    header, *counts = rows(output / "counts.csv")
    assert header == ["file", *NAMES, "total"]
    assert [row[0] for row in counts] == ["a.png", "slide_1/b.jpg", "total"]
    for image, row in zip(coco["images"], counts):
        of_image = [a["category_id"] for a in annotations if a["image_id"] == image["id"]]
        expected = [of_image.count(category) for category in (1, 2, 3)]
        assert [int(cell) for cell in row[1:]] == [*expected, len(of_image)]
    sums = np.array([row[1:] for row in counts], int)
    assert sums[2].tolist() == (sums[0] + sums[1]).tolist()

    header, unreadable = rows(output / "unreadable.csv")
    assert header == ["file", "reason"]
    assert unreadable[0] == "broken.png"
    assert "broken.png" in unreadable[1]
    assert "0.55" in (output / "README.txt").read_text()
    for name, size in {"a.jpg": (80, 60), "slide_1/b.jpg": (40, 80)}.items():
        with Image.open(output / "overlays" / name) as overlay:
            assert overlay.size == size
    original = read_image(images / "a.png")
    assert (read_image(output / "overlays" / "a.jpg") != original).any()


def test_no_image_and_no_file_of_others_is_replaced(trained, images, tmp_path, capsys):
    (tmp_path / "essay").mkdir()
    (tmp_path / "essay" / "problems.csv").write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output, message in ((images, "holds an input"), (tmp_path / "essay", "did not write")):
        assert run("--weights", trained.weights, "--input", images, "--output", output) == 2
        assert message in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_json_holds_the_predictors_boxes(trained, images, tmp_path):
    run("--weights", trained.weights, "--input", images / "a.png", "--output", tmp_path / "out")
    (found,) = LeukocytePredictor(trained.weights).predict(images / "a.png")
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    boxes = np.array([annotation["bbox"] for annotation in annotations])
    boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    np.testing.assert_allclose(boxes_xyxy, found.boxes, atol=0.011)
    assert [a["category_id"] - 1 for a in annotations] == found.labels.tolist()


def test_no_overlays_and_success(trained, images, tmp_path, capsys):
    output = tmp_path / "out"
    code = run(
        *("--weights", trained.weights, "--input", images / "a.png", images / "slide_1"),
        *("--output", output, "--no-overlays"),
    )
    assert code == 0
    assert "2 of 2 images" in capsys.readouterr().out
    assert not (output / "overlays").exists()
    assert rows(output / "unreadable.csv") == [["file", "reason"]]


def test_images_of_one_stem_get_overlays_of_their_own(trained, images, tmp_path):
    Image.open(images / "a.png").save(images / "a.bmp")
    run("--weights", trained.weights, "--input", images / "a.*", "--output", tmp_path / "out")
    overlays = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert overlays == {"a.bmp.jpg", "a.png.jpg"}


def test_every_size_and_name_of_an_image_has_its_row(trained, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (10_000, 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "high.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(folder / "wide.png")
    Image.fromarray(pixels[:1]).save(folder / "dot.png")
    small = (folder / "dot.png").read_bytes()
    names = ["a" * 250 + ".png", "ü" * 125 + ".jpg", "b" * 251 + ".bmp", "new\nline.png"]
    names += ["=cmd.png", os.fsdecode(b"bad\xff\xfe.png"), "x" * 255]
    for name in names:
        (folder / name).write_bytes(small)
    (tmp_path / "list.txt").write_text(f"in/{'x' * 255}\n")
    words = ("--weights", trained.weights, "--input", folder, tmp_path / "list.txt")
    assert run(*words, "--output", output) == 0
    counts = [read_cell(row[0]) for row in rows(output / "counts.csv")]
    expected = {"high.png", "wide.png", "dot.png", *names}
    assert set(counts[1:-1]) == expected
    images = json.loads((output / "predictions.json").read_text())["images"]
    assert {image["file_name"] for image in images} == expected
    assert sum(path.is_file() for path in (output / "overlays").rglob("*")) == len(expected)
    assert not list(output.rglob(".*"))


def test_tables_are_whole_or_absent_after_an_error(trained, images, tmp_path, monkeypatch):
    output = tmp_path / "out"
    words = ("--weights", trained.weights, "--input", images, "--output", output)
    assert run(*words) == 1
    before = (output / "counts.csv").read_bytes()
    readme = (output / "README.txt").read_text()
    monkeypatch.setattr("mfds_detr.predict_files.count_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*words)
    assert (output / "counts.csv").read_bytes() == before
    assert "not finished" in (output / "README.txt").read_text() != readme


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b/a.png"], ["a.jpg", "b/a.jpg"]),
        (["a.jpg", "A.png"], ["a.jpg.jpg", "A.png.jpg"]),
        (["a.png", "a.jpg/b.png"], ["a.png.jpg", "a.jpg/b.jpg"]),
        (["a.jpg", "a.png", "a.jpg.bmp"], None),
        (["z.zip/a.png", "z.zip/a.png"], None),
        (["x" * 251 + ".jpg", "x" * 252 + ".jpg"], None),
        (["d" * 300 + "/a.jpg", "/".join(["deep"] * 900) + "/a.jpg"], None),
    ],
)
def test_overlays_have_different_names_of_legal_length(names, expected):
    overlays = name_overlays(names)
    assert overlays == (expected or overlays)
    assert len({overlay.casefold() for overlay in overlays}) == len(names)
    parts = [part for overlay in overlays for part in overlay.split("/")]
    assert max(map(len, parts)) <= 255
    assert max(map(len, overlays)) <= 1000


def test_a_second_run_leaves_its_own_output_out(trained, images):
    for _ in range(2):
        output = images / "predictions"
        assert run("--weights", trained.weights, "--input", images, "--output", output) == 1
        assert len(rows(output / "counts.csv")) == 4


def test_inputs_without_images_are_all_named(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    inputs, output = (tmp_path / "empty", tmp_path / "*.tif"), tmp_path / "out"
    assert run("--weights", trained.weights, "--input", *inputs, "--output", output) == 1
    shown = capsys.readouterr().err
    assert "empty" in shown
    assert "*.tif" in shown
    assert not output.exists()


def test_a_missing_config_names_the_option(trained, images, tmp_path, capsys):
    weights = tmp_path / "mine.pth"
    weights.write_bytes(trained.weights.read_bytes())
    assert run("--weights", weights, "--input", images) == 2
    assert "see --config" in capsys.readouterr().err
