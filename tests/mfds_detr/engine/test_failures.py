"""Two processes that train a detector, of which one fails, or has nothing to find."""

import json
import os
import signal
import time

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.utils import comm

from mfds_detr.cli import train
from mfds_detr.engine.trainer import Trainer
from tests.processes import Worker
from tests.stress.soak.scale import LONG
from wbcnets.cli.main import run_command

TIMEOUT = 8


def train_badly(kind, rank, arguments):
    """Runs the command; process ``rank`` misbehaves in its third step."""
    original = Trainer._compute_gradients

    def compute(self, batch):
        if comm.get_rank() != rank:
            return original(self, batch)
        if kind == "no objects":
            for entry in batch:
                entry["instances"] = entry["instances"][:0]
        if self.iter != 2:
            return original(self, batch)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "raise":
            raise ValueError("a fault of its own")
        if kind == "hang":
            time.sleep(90)
        if kind == "nan activation":
            for entry in batch:
                entry["image"] = entry["image"].float() * float("nan")
        if kind == "nan gradient":
            weight = next(self.network.neck.parameters())
            hook = weight.register_hook(lambda gradient: gradient * float("nan"))
            try:
                return original(self, batch)
            finally:
                hook.remove()
        return original(self, batch)

    Trainer._compute_gradients = compute
    return run_command(train, arguments)


def run(kind, folder, tiny_command_line, smears, rank=1):
    """Returns the exit code and the output."""
    arguments = [
        "--num-gpus", "2", "--timeout", str(TIMEOUT),
        "--dataset", f"mine={smears.json_file}:{smears.images}", *tiny_command_line,
        "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "()", "OUTPUT_DIR", str(folder / "output"),
        "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "5", "TEST.EVAL_PERIOD", "0",
        "SOLVER.CHECKPOINT_PERIOD", "1", "MODEL.TIMM.FROZEN_BN", "False",
        "MODEL.MFDS_DETR.TWO_STAGE", "True",
    ]  # fmt: skip
    worker = Worker(folder / "shown.txt", train_badly, kind, rank, arguments)
    return worker.wait(), worker.text


def weights(folder, name="model_final.pth"):
    return torch.load(folder / "output" / name, weights_only=True)["model"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["kill", "raise", pytest.param("hang", marks=pytest.mark.long)])
def test_a_process_that_fails_ends_the_run(kind, tmp_path, tiny_command_line, smears):
    code, shown = run(kind, tmp_path, tiny_command_line, smears)
    assert code != 0
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
    code, shown = run(kind, tmp_path, tiny_command_line, smears, rank)
    assert code == 0, shown[-3000:]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    rows = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    assert json.loads(rows[-1])["total_loss"] > 0
    if kind == "nan gradient":
        assert "iteration 2: loss" in shown
        assert "The step was skipped" in shown
        assert (tmp_path / "output" / "bad_step_process0.pth").is_file()
        assert (tmp_path / "output" / "bad_step_process1.pth").is_file()


@pytest.mark.timeout(400)
def test_activations_that_are_not_finite_end_the_run(tmp_path, tiny_command_line, smears):
    code, shown = run("nan activation", tmp_path, tiny_command_line, smears)
    assert code != 0
    assert "not finite" in shown, shown[-3000:]
    assert "bad_step_process1.pth" in shown
    for path in (tmp_path / "output").glob("model_*.pth"):
        stored = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in stored.values())
