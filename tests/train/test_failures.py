"""Two processes of which one dies, raises, hangs or has nothing to do."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.stress.soak.scale import LONG
from tests.train.toy_runs import make_cells, read_weights

ROOT = Path(__file__).parents[2]
TIMEOUT = 6
# Both processes exchange numbers; process 1 misbehaves at the third exchange
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import torch
from wbcnets.errors import WbcnetsError
from wbcnets.engine.distributed import init_distributed

def misbehave(kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ValueError("a fault of its own")
    if kind == "hang":
        time.sleep(60)

try:
    with init_distributed("cpu", timeout={timeout}) as context:
        for step in range(5):
            if step == 2 and context.rank == 1:
                misbehave(sys.argv[1])
            value = context.mean(torch.tensor([float(context.rank)]))
            assert value.item() == 0.5
        print("finished", context.rank)
except WbcnetsError as error:
    print("error:", error, flush=True)
    os._exit(1)
"""


def run_two(script, kind, tmp_path):
    path = tmp_path / "work.py"
    path.write_text(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                   "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(path), kind],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["kill", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("raise", "hang"))]
)
def test_the_other_process_says_so_in_time(kind, tmp_path):
    script = SCRIPT.format(root=str(ROOT), timeout=TIMEOUT)
    first, second = run_two(script, kind, tmp_path)
    if kind != "hang":
        second.wait(timeout=60)
    start = time.monotonic()
    shown, errors = first.communicate(timeout=120)
    # A hanging process cannot be waited for, so its start counts
    assert time.monotonic() - start < TIMEOUT + 5 + (30 if kind == "hang" else 0)
    second.kill()
    second.communicate()
    assert first.returncode == 1, shown + errors
    assert "process 0 of 2 had no answer from the others (1)" in shown
    assert "Resume from the last checkpoint" in shown


@pytest.mark.long
def test_without_a_failure_both_finish(tmp_path):
    script = SCRIPT.format(root=str(ROOT), timeout=60)
    for rank, process in enumerate(run_two(script, "nothing", tmp_path)):
        shown, errors = process.communicate(timeout=120)
        assert shown == f"finished {rank}\n", errors
        assert process.returncode == 0


# A real run in which one process sees numbers that are not finite
TRAINING = """
import os, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.train.toy_runs import toy_config
from wbcnets.train.run import train_classifier
from wbcnets.train.trainer import Trainer

KIND, BAD = sys.argv[1].rsplit(" ", 1)
original = Trainer._backward

def backward(self, part, *args):
    bad = self.state.progress.global_step == 2 and self.context.rank == int(BAD)
    if bad and KIND == "activation":
        part[0].mul_(float("inf"))
    loss = original(self, part, *args)
    if bad and KIND == "gradient":
        next(self.state.model.parameters()).grad.fill_(float("nan"))
    if bad and KIND == "loss":
        loss = loss * float("nan")
    return loss

Trainer._backward = backward
train_classifier(toy_config({cells!r}, {output!r}, "training.ema_decay=0.9", "data.workers=0"))
"""


CASES = [("loss", 0)]
CASES += [pytest.param(kind, 1, marks=pytest.mark.long) for kind in ("gradient", "activation")]
CASES += [("loss", 1), ("gradient", 0), ("activation", 0)] if LONG else []


@pytest.mark.parametrize(("kind", "rank"), CASES)
def test_numbers_that_are_not_finite_stay_out_of_all_weights(kind, rank, tmp_path):
    cells = make_cells(tmp_path / "cells")
    script = TRAINING.format(root=str(ROOT), cells=str(cells), output=str(tmp_path / "run"))
    for process in run_two(script, f"{kind} {rank}", tmp_path):
        shown, errors = process.communicate(timeout=200)
        assert process.returncode == 0, shown + errors
    last = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert last["resume"]["bad_steps"]["total"] == 1
    tensors = read_weights(tmp_path / "run" / "last.pth")
    assert any(name.startswith("ema.") for name in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    kept = torch.load(tmp_path / "run" / "bad_step.pth", weights_only=True)
    assert len(kept["files"]) == 8
    assert (kept["epoch"], kept["step"]) == (1, 3)
