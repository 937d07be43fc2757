"""An exported file predicts the same, and needs nothing beside it."""

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mfds_detr.checkpoint.weights import read_config_of, read_weights
from mfds_detr.cli import export
from mfds_detr.predictor import LeukocytePredictor
from tests.mfds_detr.conftest import NAMES
from wbcnets.cli.main import run_command
from wbcnets.errors import ConfigError
from wbcnets.io.checkpoints import read_checkpoint, write_weights


def run(*arguments: object) -> int:
    return run_command(export, [str(argument) for argument in arguments])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_exported_file_predicts_the_same(trained, images, tmp_path, dtype):
    output = tmp_path / "small" / "mine.safetensors"
    assert run("--weights", trained.weights, "--output", output, "--dtype", dtype) == 0
    assert {path.suffix for path in output.parent.iterdir()} == {".safetensors", ".sha256"}
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


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.safetensors.sha256"])
def test_no_file_is_replaced(trained, tmp_path, capsys, name):
    (tmp_path / name).write_text("years of work")
    assert run("--weights", trained.weights, "--output", tmp_path / "mine.safetensors") == 2
    assert f"{name}: exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_shipped_weights_are_exported_with_the_whole_config(tmp_path):
    output = tmp_path / "again.safetensors"
    assert run("--weights", "mfds_detr_tiny_bccd", "--output", output) == 0
    given, expected = (read_config_of(read_weights(p)) for p in (output, "mfds_detr_tiny_bccd"))
    given.OUTPUT_DIR = expected.OUTPUT_DIR
    given.MODEL.WEIGHTS = expected.MODEL.WEIGHTS
    assert yaml.safe_load(given.dump()) == yaml.safe_load(expected.dump())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("MODEL: {}\n" * 200_000, "is longer than"),
        ("_BASE_: /etc/passwd", "without a _BASE_"),
        ("MODEL: {NO_SUCH: 1}", "NO_SUCH"),
        ("MODEL: !!python/object/apply:os.system [exit]", "cannot be read as YAML"),
        ("[" * 10_000, "nested too deeply"),
    ],
)
def test_a_config_in_the_weights_is_checked(tmp_path, config, message):
    path = tmp_path / "mine.safetensors"
    write_weights(path, {"a": torch.ones(2)}, NAMES, config=config)
    with pytest.raises(ConfigError, match=rf"mine\.safetensors: config: .*{message}"):
        LeukocytePredictor(path)


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
    output = ["--config", "mfds_detr_tiny_base", "--output", tmp_path / "mine.safetensors"]
    assert run("--weights", tmp_path / "model.pth", *(words or output)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine.safetensors").exists()
