import json

import cv2
import pytest

from wbcnets.cli.main import main

TINY = ["--size", "200x160", "--magnification", "0.3", "--classes", "leukocytes"]


def test_writes_a_dataset_and_a_preview(tmp_path, capsys):
    output, preview = tmp_path / "set", tmp_path / "new" / "preview.png"
    command = ["smears", "--output", str(output), "--images", "3", *TINY]
    assert main([*command, "--preview", str(preview)]) == 0
    assert capsys.readouterr().out.endswith(f"{output / 'annotations.json'}\n")
    coco = json.loads((output / "annotations.json").read_text())
    assert [(i["width"], i["height"]) for i in coco["images"]] == [(200, 160)] * 3
    assert cv2.imread(str(preview)).size > 0
    (tmp_path / "thesis.txt").touch()
    assert main(["smears", "--output", str(tmp_path), "--images", "1"]) == 2
    assert "choose a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--size", "640"], "not WIDTHxHEIGHT"), (["--images", "0"], "0 is out of range")],
)
def test_wrong_options(capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["smears", "--output", "x", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_wrong_style_is_named(tmp_path, capsys):
    assert main(["smears", "--output", str(tmp_path / "x"), "--stain", "ink"]) == 2
    assert "wright" in capsys.readouterr().err
