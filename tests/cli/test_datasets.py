import json

import numpy as np
import pytest
from PIL import Image

from wbcnets.cli.main import main
from wbcnets.io.images import read_image


@pytest.fixture
def prepared(tmp_path):
    """A root in which the split bccd_test is in place, with one zero-area box."""
    folder = tmp_path / "bccd"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), (220, 200, 210)).save(folder / "images" / name)
    boxes = [[5, 5, 20, 20], [9, 9, 0, 0]]
    data = {
        "images": [
            {"id": i, "file_name": n, "width": 64, "height": 48}
            for i, n in enumerate(("a.png", "b.png"))
        ],
        "categories": [{"id": 1, "name": "WBC"}],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, b in enumerate(boxes)
        ],
    }
    (folder / "annotations" / "test.json").write_text(json.dumps(data))
    return tmp_path


def test_list(prepared, capsys):
    assert main(["datasets", "list", "--root", str(prepared)]) == 0
    text = capsys.readouterr().out
    assert f"bccd_test: {prepared / 'bccd' / 'annotations' / 'test.json'}" in text
    assert "wbcdd_train: not prepared" in text


def test_show_by_name_and_by_file(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WBCNETS_DATASETS", str(prepared))
    first, second = tmp_path / "x" / "first.png", tmp_path / "second.png"
    assert main(["datasets", "show", "bccd_test", "--output", str(first)]) == 0
    text = capsys.readouterr().out
    assert "2 read = 1 used as they are + 0 repaired + 1 dropped" in text
    assert "WBC 1" in text
    json_file = prepared / "bccd" / "annotations" / "test.json"
    images = prepared / "bccd" / "images"
    assert (
        main(["datasets", "show", str(json_file), "--images", str(images), "--output", str(second)])
        == 0
    )
    np.testing.assert_array_equal(read_image(first), read_image(second))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "bccd_test"], 1, "wbcnets prepare bccd"),
        (["show", "bcdc_test"], 1, "did you mean bccd_test"),
        (["show", "x.json"], 2, "--images FOLDER"),
        (["show"], 2, "name the dataset"),
        (["show", "none.json", "--images", "."], 1, "does not exist"),
    ],
)
def test_unusable_names_are_explained(tmp_path, capsys, arguments, code, message):
    assert main(["datasets", *arguments, "--root", str(tmp_path)]) == code
    assert message in capsys.readouterr().err
