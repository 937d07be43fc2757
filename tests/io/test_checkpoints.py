"""Checkpoints are read without running code, and damage never goes unnoticed."""

import argparse
import pickle
import random
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import read_checkpoint


class Canary:
    """Unpickling it without care makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_arrays_of_the_model_zoo(tmp_path):
    arrays = {"stem.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(3)}
    path = tmp_path / "R-50.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol))
        found = read_checkpoint(path)
        assert torch.equal(found["model"]["stem.conv1.weight"], torch.arange(6.0).view(2, 3))
        assert found["__author__"] == "zoo"


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_pickled_arrays_of_other_versions_of_numpy(tmp_path, core):
    path = tmp_path / "R-50.pkl"
    # Protocol 2 names modules in lines of text
    text = pickle.dumps({"model": {"n": np.ones(2, np.float32), "s": np.float64(3)}}, 2)
    path.write_bytes(re.sub(rb"numpy\._?core", core, text))
    assert torch.equal(read_checkpoint(path)["model"]["n"], torch.ones(2))


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
    assert read_checkpoint(path)["class_names"] == ["x", "y"]
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    assert read_checkpoint(path)["class_names"] == ()
