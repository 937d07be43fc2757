"""An exported file predicts the same, and needs nothing but the config beside it."""

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mfds_detr.cli import export
from mfds_detr.predictor import LeukocytePredictor
from tests.mfds_detr.conftest import NAMES
from wbcnets.cli.main import run_command
from wbcnets.io.checkpoints import read_checkpoint


def run(*arguments: object) -> int:
    return run_command(export, [str(argument) for argument in arguments])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_exported_file_predicts_the_same(trained, images, tmp_path, dtype):
    output = tmp_path / "small" / "mine.safetensors"
    assert run("--weights", trained.weights, "--output", output, "--dtype", dtype) == 0
    state = read_checkpoint(output)["model"]
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {getattr(torch, dtype)}
    given, expected = (
        LeukocytePredictor(weights, threshold=0.0) for weights in (output, trained.weights)
    )
    assert given.class_names == expected.class_names == NAMES
    scores, wanted = (p.predict(images / "a.png")[0].scores for p in (given, expected))
    assert len(wanted)
    if dtype == "float32":
        assert np.array_equal(scores, wanted)


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.safetensors.sha256", "mine.yaml"])
def test_no_file_is_replaced(trained, tmp_path, capsys, name):
    (tmp_path / name).write_text("years of work")
    assert run("--weights", trained.weights, "--output", tmp_path / "mine.safetensors") == 2
    assert f"{name}: exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ({"model": {"a": torch.ones(2)}}, [], "names no classes"),
        ({"model": {"a": torch.full((2,), 1e6)}, "class_names": NAMES}, [], "a overflow in"),
        ({"model": {"a": torch.ones(2)}, "class_names": NAMES}, ["--output", "x.pth"], "must end"),
    ],
)
def test_what_cannot_be_exported(tmp_path, capsys, content, words, message):
    torch.save(content, tmp_path / "model.pth")
    output = ["--output", tmp_path / "mine.safetensors"]
    assert run("--weights", tmp_path / "model.pth", *(words or output)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine.safetensors").exists()
