import argparse
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

import safetensors.torch

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.checkpoint.weight_names import translate
from mfds_detr.checkpoint.weights import fit_weights, read_weights
from wbcnets.errors import CheckpointError
from wbcnets.io import atomic_files as files
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.checkpoints import read_checkpoint


class Canary:
    """Unpickling it without care makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def changed(model):
    """The model with other weights, so that loading has something to do."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1) if tensor.is_floating_point() else None
    return model


def save(model, path, **extra):
    torch.save({"model": model.state_dict(), **extra}, path)
    return str(path)


def same_weights(one, other):
    return all(torch.equal(a, other.state_dict()[k]) for k, a in one.state_dict().items())


def test_round_trip(tiny_model, tmp_path):
    model, other = tiny_model(), changed(tiny_model())
    AtomicCheckpointer(model, str(tmp_path), class_names=("a", "b")).save("model_0000001")
    assert not same_weights(model, other)
    extra = AtomicCheckpointer(other).load(str(tmp_path / "model_0000001.pth"))
    assert same_weights(model, other)
    assert tuple(extra["class_names"]) == ("a", "b")


def test_weights_may_be_empty(tiny_model):
    model = tiny_model()
    assert AtomicCheckpointer(model).load("") == {}
    assert same_weights(model, tiny_model())


def test_the_moving_average_is_preferred(tiny_model, tmp_path):
    averaged, model = changed(tiny_model()), tiny_model()
    path = save(model, tmp_path / "model.pth", ema=averaged.state_dict())
    AtomicCheckpointer(model).load(path)
    assert same_weights(model, averaged)


def test_missing_unexpected_and_misshapen_tensors_are_named(tiny_model, tmp_path):
    model = tiny_model()
    state = model.state_dict()
    del state["detector.query_embed.weight"]
    state["detector.other"] = torch.zeros(3)
    state["neck.extra"] = torch.zeros(2)
    state["detector.transformer.level_embed"] = torch.zeros(9, 32)
    before = changed(tiny_model())
    target = changed(tiny_model())
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError) as caught:
        AtomicCheckpointer(target).load(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "does not fit the model (MFDS-DETR names), in 4 tensors" in message
    assert "not in the file: detector.query_embed.weight" in message
    assert "not in the model: detector.other" in message
    assert "not in the model: neck.extra" in message
    assert "level_embed: (9, 32) in the file, (4, 32) in the model" in message
    assert "MODEL.WEIGHTS_PARTIAL True" in message
    assert same_weights(target, before)  # a refused file changes nothing

    report = fit_weights(
        target,
        translate(state, target.backbone.state_dict()),
        "file",
        partial=True,
    )
    assert "Left out as asked: not in the model: detector.other" in report
    assert torch.equal(
        target.neck.state_dict()["outputs.0.0.weight"], state["neck.outputs.0.0.weight"]
    )
    kept = target.detector.transformer.level_embed
    assert torch.equal(kept, before.detector.transformer.level_embed)


def test_other_classes_reinitialize_the_head_only(tiny_model, tmp_path, caplog):
    path = save(tiny_model(), tmp_path / "model.pth")
    other = changed(tiny_model("MODEL.MFDS_DETR.NUM_CLASSES", 3))
    head = other.detector.class_embed[0].weight.clone()
    caplog.set_level("INFO")
    AtomicCheckpointer(other).load(path)
    assert "Re-initialized, the classes differ: detector.class_embed.0.weight" in caplog.text
    assert "Re-initialized, the classes differ: detector.class_embed.1.bias" in caplog.text
    assert torch.equal(other.detector.class_embed[0].weight, head)
    loaded = other.state_dict()["detector.query_embed.weight"]
    assert torch.equal(loaded, tiny_model().state_dict()["detector.query_embed.weight"])


def test_backbone_only_files_say_what_they_lack(tiny_model, tmp_path, caplog):
    state = {
        k[14:]: v for k, v in tiny_model().state_dict().items() if k.startswith("backbone.body.")
    }
    torch.save(state, tmp_path / "resnet.pth")
    model = changed(tiny_model())
    caplog.set_level("INFO")
    AtomicCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    for part in ("detector", "extra_stage", "neck"):
        assert f"Keeps its initialization, such files do not hold it: {part}" in caplog.text
    assert torch.equal(model.backbone.body.conv1.weight, state["conv1.weight"])


def test_a_file_of_something_else_is_refused(tiny_model, tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit the model"):
        AtomicCheckpointer(tiny_model()).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("partial", [False, True])
def test_values_that_are_not_finite_are_refused(tiny_model, tmp_path, partial):
    state = tiny_model().state_dict()
    state["detector.query_embed.weight"] = torch.full((12, 64), float("nan"))
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"not finite: detector\.query_embed\.weight"):
        AtomicCheckpointer(tiny_model(), partial=partial).load(str(tmp_path / "model.pth"))


def test_pickled_arrays_of_the_model_zoo(tmp_path):
    arrays = {"stem.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(3)}
    path = tmp_path / "R-50.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol))
        found = read_checkpoint(path)
        assert torch.equal(found["model"]["stem.conv1.weight"], torch.arange(6.0).view(2, 3))
        assert found["__author__"] == "zoo"


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_files_cannot_run_code(tmp_path, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    evil = {"model": {"a": torch.zeros(2)}, "more": Canary(canary)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {"a": np.zeros(2)}, "more": Canary(canary)}))
    else:
        torch.save(evil, path)
    with pytest.raises(CheckpointError, match=rf"evil\{suffix}: damaged, cut off, or holds more"):
        read_checkpoint(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary))).close()
    assert canary.exists()  # it would have


def test_the_command_line_in_original_files_is_data(tmp_path):
    content = {"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1e-4, device="cuda")}
    torch.save(content, tmp_path / "checkpoint.pth")
    assert torch.equal(read_checkpoint(tmp_path / "checkpoint.pth")["model"]["a"], torch.ones(2))


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "this is a web page"),
        (b"\n\n<HTML><head></head></HTML>", "this is a web page"),
        (b"PK\x03\x04 and then nothing", "damaged, cut off"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, suffix, content, message):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_missing_files(tmp_path, suffix):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / f"weights{suffix}")
    with pytest.raises(CheckpointError, match=r"weights\..*: no such file"):
        read_weights(str(tmp_path / f"weights{suffix}"))


def test_pickles_of_other_things(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, not a dictionary of weights"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path / "numbers.pth")
    torch.save({"model": 3}, tmp_path / "number.pth")
    with pytest.raises(CheckpointError, match="holds no weights, but a int"):
        read_checkpoint(tmp_path / "number.pth")


def test_no_damage_goes_unnoticed(tmp_path):
    # Cut anywhere, or with any bit turned over: refused, or read as it was written
    path = tmp_path / "model.pth"
    torch.manual_seed(0)
    content = {"model": {"a": torch.randn(30, 30), "b": torch.randn(5)}, "iteration": 4}
    torch.save(content, path)
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for case in range(300):
        damaged = bytearray(whole)
        if case % 2:
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        else:
            del damaged[generator.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:
            assert found["iteration"] == 4
            assert torch.equal(found["model"]["a"], content["model"]["a"])
            assert torch.equal(found["model"]["b"], content["model"]["b"])
    assert refused > 250


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_damaged_files_only_raise_checkpoint_errors(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pkl":
        whole = pickle.dumps({"model": {"a": np.ones((8, 8), np.float32)}})
    else:
        whole = safetensors.torch.save({"a": torch.ones(8, 8)}, {"class_names": '["x"]'})
    generator = random.Random(0)
    refused = 0
    for case in range(300):
        damaged = bytearray(whole)
        # Among the first bytes lies the structure; a changed weight cannot be told from a weight
        damaged[generator.randrange(min(120, len(whole)))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged[: len(whole) if case % 2 else generator.randrange(len(whole))])
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 150


def test_safetensors_carry_class_names(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"class_names": '["x", "y"]'})
    assert read_checkpoint(path)["class_names"] == ("x", "y")
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    assert read_checkpoint(path)["class_names"] == ()


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"new, but")
        raise OSError("No space left on device")

    with pytest.raises(CheckpointError, match=r"could not be written.*No space left.*untouched"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_a_failing_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def refuse(*args):
        raise OSError("read-only")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(CheckpointError, match="read-only"):
        write_atomically(path, lambda file: file.write(b"new"))
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
sys.path[:0] = {sys.path!r}
from wbcnets.io.atomic_files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path / "model.pth")!r})
write_atomically(path, lambda file: torch.save({{"a": torch.zeros(10)}}, file))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
write_atomically(path, lambda file: torch.save({{"a": torch.zeros(100000)}}, file))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "CheckpointError" in done.stderr, done.stderr
    assert len(torch.load(tmp_path / "model.pth", weights_only=True)["a"]) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_timm_weights_without_a_network():
    with pytest.raises(CheckpointError, match=r"timm://resnet18: timm could not load"):
        read_weights("timm://resnet18")
    with pytest.raises(CheckpointError, match="timm://resnet1234: timm could not load"):
        read_weights("timm://resnet1234")


def test_unknown_shipped_weights():
    with pytest.raises(CheckpointError, match=r"wbcnets://nothing: unknown name; choose from \["):
        read_weights("wbcnets://nothing")


def test_class_heads_follow_the_class_names(tiny_model, tmp_path):
    names = ("a", "b", "c", "d", "e")
    model, other = changed(tiny_model()), tiny_model()
    torch.nn.init.normal_(model.detector.class_embed[0].weight)
    path = save(model, tmp_path / "x.pth", class_names=names)
    AtomicCheckpointer(other, class_names=names[::-1]).load(path)
    given, loaded = (m.detector.class_embed[0].weight for m in (model, other))
    assert torch.equal(loaded, given.flip(0))


def test_the_first_stages_head_stands_for_any_object(tiny_model, tmp_path):
    names = ("a", "b", "c", "d", "e")
    model = changed(tiny_model("MODEL.MFDS_DETR.TWO_STAGE", True))
    other = tiny_model("MODEL.MFDS_DETR.TWO_STAGE", True)
    for head in model.detector.class_embed:
        torch.nn.init.normal_(head.weight)
    path = save(model, tmp_path / "x.pth", class_names=names)
    AtomicCheckpointer(other, class_names=names[::-1]).load(path)
    given, loaded = model.detector.class_embed, other.detector.class_embed
    assert torch.equal(loaded[0].weight, given[0].weight.flip(0))
    assert torch.equal(loaded[-1].weight, given[-1].weight)


def test_as_many_other_classes_reinitialize_the_head(tiny_model, tmp_path, caplog):
    model, other = changed(tiny_model()), tiny_model()
    before = other.detector.class_embed[0].weight.clone()
    path = save(model, tmp_path / "x.pth", class_names=("a", "b", "c", "d", "e"))
    with caplog.at_level("INFO"):
        AtomicCheckpointer(other, class_names=("v", "w", "x", "y", "z")).load(path)
    assert torch.equal(other.detector.class_embed[0].weight, before)
    assert "Re-initialized, the classes differ: detector.class_embed.0.weight" in caplog.text
