import hashlib
import os
import resource
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.processes import Worker
from wbcnets.errors import CheckpointError
from wbcnets.io import atomic_files as files
from wbcnets.io.atomic_files import copy_atomically, keep_copy, write_with_digest
from wbcnets.io.checkpoints import read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]
CALLS = ("fsync", "replace", "link", "open", "fdopen")


def checkpoint(value):
    return {"model": {"weight": torch.full((64, 64), float(value))}, "epoch": value}


def stored(path):
    return read_checkpoint(path)["model"]["weight"][0, 0].item()


def save(folder, value):
    """Saves as a training does: the old checkpoint becomes the previous one."""
    keep_copy(folder / "last.pth", folder / "previous.pth")
    write_checkpoint(folder / "last.pth", checkpoint(value))


def test_the_digest_is_that_of_the_file(tmp_path):
    for content in (b"one", b"two"):
        write_with_digest(tmp_path / "x.safetensors", content)
    digest = hashlib.sha256(b"two").hexdigest()
    assert (tmp_path / "x.safetensors.sha256").read_text() == f"{digest}  x.safetensors\n"
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "x.safetensors.sha256"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_the_previous_checkpoint_is_kept(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert (stored(tmp_path / "last.pth"), stored(tmp_path / "previous.pth")) == (2, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pth", "previous.pth"}


def test_a_digest_of_an_earlier_release_beside_a_checkpoint_is_ignored(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "last.pth.sha256").write_text(f"{'0' * 64}  last.pth\n")
    assert stored(tmp_path / "last.pth") == 1


class Crash(BaseException):
    """Ends the process's work at one system call, as a kill would."""


@pytest.mark.parametrize("kind", ["error", "crash before", "crash after"])
def test_every_failing_call_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch, kind):
    """SQLite's way: the N-th call fails, for every N there is."""
    failures, messages = 0, []
    for n in range(1, 100):
        folder = tmp_path / str(n)
        folder.mkdir()
        save(folder, 1)
        save(folder, 2)
        calls = []

        def wrap(original, n=n, calls=calls):
            def call(*args, **kwargs):
                calls.append(original.__name__)
                if len(calls) == n and kind != "crash after":
                    raise OSError(28, "No space left on device") if kind == "error" else Crash
                result = original(*args, **kwargs)
                if len(calls) == n:
                    raise Crash
                return result

            return call

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(files.os, name, wrap(getattr(os, name)))
            try:
                save(folder, 3)
            except Crash:
                failures += 1
            except CheckpointError as error:
                failures += 1
                messages.append(str(error))
        if len(calls) < n:
            break
        assert stored(folder / "last.pth") in (2, 3)
        assert stored(folder / "previous.pth") in (1, 2)
        if kind == "error":
            left = {path.name for path in folder.iterdir()}
            assert not [name for name in left if name.startswith(".")]
    assert all(str(tmp_path) in text and "No space left" in text for text in messages)
    assert failures >= (8 if kind == "error" else 9)
    assert stored(folder / "last.pth") == 3
    print(f"{kind}: {failures} places, the checkpoint loads after each")


def write_limited(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        write_checkpoint(path, {"model": {"w": torch.zeros(100000)}})
    except CheckpointError as error:
        print(error)


def test_a_limit_on_file_sizes_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path, 1)
    worker = Worker(tmp_path / "shown.txt", write_limited, tmp_path / "last.pth")
    assert worker.wait() == 0, worker.text
    assert "could not be written" in worker.text
    assert "MiB are free" in worker.text
    assert stored(tmp_path / "last.pth") == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
    assert signal.getsignal(signal.SIGXFSZ) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    save(tmp_path, 1)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            save(tmp_path, 2)
    finally:
        tmp_path.chmod(0o700)
    assert stored(tmp_path / "last.pth") == 1


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(CheckpointError, match="could not be written"):
        write_checkpoint(tmp_path / "gone" / "last.pth", checkpoint(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_not_written(tmp_path, value):
    save(tmp_path, 1)
    broken = {**checkpoint(2), "optimizer": {"state": {0: {"exp_avg": torch.tensor([value])}}}}
    with pytest.raises(CheckpointError, match=r"not finite in optimizer\.state\.0\.exp_avg"):
        write_checkpoint(tmp_path / "last.pth", broken)
    assert stored(tmp_path / "last.pth") == 1


def same(a, b):
    """Tells whether nested containers of tensors are equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_no_damage_of_a_checkpoint_changes_its_content(tmp_path):
    """Every byte is changed: pickle, tensors, zip headers, padding and central directory.

    This is why a .pth file needs no SHA-256 beside it.
    """
    path = tmp_path / "last.pth"
    tensors = {"weight": torch.randn(4, 3), "n": torch.arange(3)}
    state = {"state": {0: {"exp_avg": torch.randn(4, 3), "step": 7}}, "lr": 1e-3}
    write_checkpoint(path, {"model": tensors, "optimizer": state, "class_names": ("a", "b")})
    whole, content = path.read_bytes(), read_checkpoint(path)
    rejected = 0
    for place, byte in enumerate(whole):
        changed = byte ^ (1 << place % 8)
        path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            rejected += 1
        else:
            assert same(content, found), f"byte {place}: {byte} to {changed}"
    assert rejected > len(whole) // 3
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_records_marked_as_folders_are_refused(tmp_path):
    """PyTorch would return uninitialized memory, and every checksum fits."""
    path = tmp_path / "last.pth"
    write_checkpoint(path, checkpoint(1))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 38] |= 0x10
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_no_changed_byte_of_safetensors_is_accepted(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {"weight": torch.randn(8, 8), "bias": torch.randn(8)}
    write_with_digest(path, safetensors.torch.save(tensors))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)
    for share in range(100):
        path.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path)["model"]["weight"], tensors["weight"])
    (tmp_path / "weights.safetensors.sha256").write_text("hello")
    with pytest.raises(CheckpointError, match=r"s\.sha256 beside it holds no SHA-256"):
        read_checkpoint(path)


def test_a_copy_is_whole_or_absent(tmp_path):
    source, target = tmp_path / "a.png", tmp_path / "copy.png"
    source.write_bytes(b"x" * 3000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"copy\.png: could not be written"):
            copy_atomically(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == ["a.png"]
    copy_atomically(source, target)
    assert target.read_bytes() == source.read_bytes()
