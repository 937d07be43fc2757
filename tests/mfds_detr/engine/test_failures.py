"""Two processes that train a detector, of which one fails, or has nothing to find."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("detectron2")

from tests.stress.soak.scale import LONG

TIMEOUT = 8
# The command itself, with one process misbehaving at an iteration
SCRIPT = """
import os, signal, sys, time
sys.path[:0] = {paths!r}
import torch
from detectron2.utils import comm
from mfds_detr.cli import train
from mfds_detr.engine.trainer import Trainer
from wbcnets.cli.main import run_command

KIND, RANK = {kind!r}, {rank}
original = Trainer._compute_gradients

def compute(self, batch):
    if comm.get_rank() == RANK and self.iter == 2:
        if KIND == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "raise":
            raise ValueError("a fault of its own")
        if KIND == "hang":
            time.sleep(90)
        if KIND in ("nan loss", "nan activation"):
            for entry in batch:
                entry["image"] = entry["image"].float() * float("nan")
        if KIND == "nan gradient":
            weight = next(self.network.neck.parameters())
            hook = weight.register_hook(lambda gradient: gradient * float("nan"))
            try:
                return original(self, batch)
            finally:
                hook.remove()
    if KIND == "no objects" and comm.get_rank() == RANK:
        for entry in batch:
            entry["instances"] = entry["instances"][:0]
    return original(self, batch)

Trainer._compute_gradients = compute

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_command(train))
"""


def run(kind, folder, tiny_command_line, smears, rank=1):
    script = folder / "work.py"
    script.write_text(
        SCRIPT.format(paths=[path for path in sys.path if path], kind=kind, rank=rank)
    )
    command = [
        sys.executable, str(script), "--num-gpus", "2", "--timeout", str(TIMEOUT),
        "--dataset", f"mine={smears.json_file}:{smears.images}", *tiny_command_line,
        "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "()", "OUTPUT_DIR", str(folder / "output"),
        "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "5", "TEST.EVAL_PERIOD", "0",
        "SOLVER.CHECKPOINT_PERIOD", "1", "MODEL.TIMM.FROZEN_BN", "False",
        "MODEL.MFDS_DETR.TWO_STAGE", "True",
    ]  # fmt: skip
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done, done.stdout + done.stderr, time.monotonic() - start


def weights(folder, name="model_final.pth"):
    return torch.load(folder / "output" / name, weights_only=True)["model"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "kind", ["kill", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("raise", "hang"))]
)
def test_a_process_that_fails_ends_the_run(kind, tmp_path, tiny_command_line, smears):
    done, shown, _ = run(kind, tmp_path, tiny_command_line, smears)
    assert done.returncode != 0
    expected = {
        "kill": "SIGKILL|had no answer from the others",
        "raise": "a fault of its own",
        "hang": "had no answer from the others",
    }[kind]
    assert any(text in shown for text in expected.split("|")), shown[-3000:]
    # The steps before are saved, but for the last one if the kill comes while it is written
    assert weights(tmp_path, "model_0000000.pth")
    assert not (tmp_path / "output" / "model_final.pth").exists()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "rank"),
    [("nan gradient", 1), ("no objects", 1), *([("nan gradient", 0)] if LONG else [])],
)
def test_processes_stay_together(kind, rank, tmp_path, tiny_command_line, smears):
    done, shown, _ = run(kind, tmp_path, tiny_command_line, smears, rank)
    assert done.returncode == 0, shown[-3000:]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    rows = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    assert json.loads(rows[-1])["total_loss"] > 0
    if kind == "nan gradient":
        assert "iteration 2: loss" in shown
        assert "The step was skipped" in shown
        assert (tmp_path / "output" / "bad_step_process0.pth").is_file()
        assert (tmp_path / "output" / "bad_step_process1.pth").is_file()


@pytest.mark.long
@pytest.mark.timeout(400)
def test_activations_that_are_not_finite_end_the_run(tmp_path, tiny_command_line, smears):
    done, shown, _ = run("nan activation", tmp_path, tiny_command_line, smears)
    assert done.returncode != 0
    assert "not finite" in shown, shown[-3000:]
    assert "bad_step_process1.pth" in shown
    for path in (tmp_path / "output").glob("model_*.pth"):
        stored = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in stored.values())
