import os

import pytest
from safetensors.torch import load_file

from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import NAMES, save_run, small_model
from wbcnets.cli.main import main
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.predictions import Predictions


def export(source, target):
    return main(["export", "cells", "--weights", str(source), "--output", str(target)])


def test_output_with_a_suffix_is_a_file_and_without_one_a_folder(tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    assert export(tmp_path / "best.pth", tmp_path / "x.safetensors") == 0
    assert load_file(tmp_path / "x.safetensors")
    assert f"million parameters written to {tmp_path / 'x.safetensors'}" in capsys.readouterr().out
    assert export(tmp_path / "best.pth", tmp_path / "folder") == 0
    assert load_classifier(tmp_path / "folder").class_names == NAMES


@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
def test_an_export_predicts_and_evaluates_alone(name, tmp_path):
    data_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.4] * 3}
    changes = {"data_config": {**data_config, "augmentation": "sckansformer_eval"}}
    save_run(tmp_path / "best.pth", small_model(), **changes)
    make_class_folders(tmp_path / "cells", dict.fromkeys(NAMES, 2))
    (tmp_path / "sent").mkdir()
    weights = tmp_path / "sent" / name
    assert export(tmp_path / "best.pth", weights) == 0
    (tmp_path / "best.pth").unlink()
    cells = str(tmp_path / "cells")
    table = tmp_path / "cells.csv"
    words = ["--weights", str(weights), "--device", "cpu"]
    assert main(["predict", "cells", *words, "--input", cells, "--output", str(table)]) == 0
    assert Predictions.from_csv(table).class_names == NAMES
    report = ["--output", str(tmp_path / "report"), "--bootstrap", "0", "--workers", "0"]
    assert main(["evaluate", "cells", *words, "--data", cells, "--split", "", *report]) == 0
    loaded = load_classifier(weights, device="cpu")
    assert (loaded.preset, loaded.image_size, loaded.class_names) == (
        "sckansformer_eval",
        32,
        NAMES,
    )
    assert (loaded.mean, loaded.std) == ((0.5,) * 3, (0.4,) * 3)


@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
def test_exported_files_follow_the_umask(name, tmp_path):
    save_run(tmp_path / "best.pth", small_model())
    mask = os.umask(0o027)
    try:
        assert export(tmp_path / "best.pth", tmp_path / "out" / name) == 0
    finally:
        os.umask(mask)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_weights_that_cannot_be_read_are_an_error(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "best.pth").write_bytes(content)
    assert export(tmp_path / "best.pth", tmp_path / "x.safetensors") == 2
    assert "best.pth" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
