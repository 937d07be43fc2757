import pytest
from safetensors.torch import load_file

from tests.evaluation.small_classifier import NAMES, save_run, small_model
from wbcnets.cli.main import main
from wbcnets.evaluation.classifier import load_classifier


def export(source, target):
    return main(["export", "cells", "--weights", str(source), "--output", str(target)])


def test_output_with_a_suffix_is_a_file_and_without_one_a_folder(tmp_path, capsys):
    save_run(tmp_path / "best.pth", small_model())
    assert export(tmp_path / "best.pth", tmp_path / "x.safetensors") == 0
    assert load_file(tmp_path / "x.safetensors")
    assert f"million parameters written to {tmp_path / 'x.safetensors'}" in capsys.readouterr().out
    assert export(tmp_path / "best.pth", tmp_path / "folder") == 0
    assert load_classifier(tmp_path / "folder").class_names == NAMES


def test_preset_that_is_lost_is_named(tmp_path, capsys):
    data_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    changes = {"data_config": {**data_config, "augmentation": "sckansformer_eval"}}
    save_run(tmp_path / "best.pth", small_model(), **changes)
    assert export(tmp_path / "best.pth", tmp_path / "x.safetensors") == 0
    assert "does not keep the resizing of the preset 'sckansformer_eval'" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_weights_that_cannot_be_read_are_an_error(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "best.pth").write_bytes(content)
    assert export(tmp_path / "best.pth", tmp_path / "x.safetensors") == 2
    assert "best.pth" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
