import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wbcnets.errors import CheckpointError
from wbcnets.io import atomic_files as files
from wbcnets.io.atomic_files import keep_copy, write_with_digest
from wbcnets.io.checkpoints import read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]
CALLS = ("fsync", "replace", "link", "open", "fdopen", "chmod")


def checkpoint(value):
    return {"model": {"weight": torch.full((64, 64), float(value))}, "epoch": value}


def stored(path):
    return read_checkpoint(path)["model"]["weight"][0, 0].item()


def save(folder, value):
    """What a training does: the old checkpoint becomes the previous one, the new one is written."""
    keep_copy(folder / "last.pth", folder / "previous.pth")
    write_checkpoint(folder / "last.pth", checkpoint(value))


def test_the_digest_is_that_of_the_file(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    for name in ("last.pth", "previous.pth"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert (tmp_path / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    assert (stored(tmp_path / "last.pth"), stored(tmp_path / "previous.pth")) == (2, 1)
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "last.pth.sha256", "previous.pth.sha256"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


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
    assert failures >= (12 if kind == "error" else 20)
    assert stored(folder / "last.pth") == 3
    print(f"{kind}: {failures} places, the checkpoint loads after each")


def test_a_limit_on_file_sizes_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path, 1)
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from wbcnets.io.checkpoints import write_checkpoint\n"
        "from wbcnets.errors import CheckpointError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_checkpoint(Path(sys.argv[1]), {'model': {'w': torch.zeros(100000)}})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "last.pth")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "could not be written" in done.stdout
    assert "MiB are free" in done.stdout
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


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_changed_byte_is_accepted(tmp_path, suffix):
    import safetensors.torch

    path = tmp_path / f"weights{suffix}"
    tensors = {"weight": torch.randn(8, 8), "bias": torch.randn(8)}
    if suffix == ".pth":
        write_checkpoint(path, {"model": tensors})
    else:
        write_with_digest(path, lambda file: file.write(safetensors.torch.save(tensors)))
    whole = path.read_bytes()
    rejected = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)
        rejected += 1
    for share in range(100):
        path.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    assert rejected > 100
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path)["model"]["weight"], tensors["weight"])


def test_a_digest_that_is_none_is_named(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "last.pth.sha256").write_text("hello")
    with pytest.raises(CheckpointError, match=r"last\.pth\.sha256 beside it holds no SHA-256"):
        read_checkpoint(tmp_path / "last.pth")
