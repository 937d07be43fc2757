"""Two processes of which one dies, raises, hangs or has nothing to do."""

import os
import signal
import socket
import time

import pytest
import torch

from tests.processes import Worker
from tests.stress.soak.scale import LONG
from tests.train.toy_runs import make_cells, read_weights, toy_config
from wbcnets.engine.distributed import init_distributed
from wbcnets.errors import WbcnetsError
from wbcnets.train.run import train_classifier
from wbcnets.train.trainer import Trainer

TIMEOUT = 6


def exchange(kind, timeout):
    """Exchanges numbers; at the third exchange, process 1 does something else."""
    try:
        with init_distributed("cpu", timeout=timeout) as context:
            for step in range(5):
                if step == 2 and context.rank == 1:
                    misbehave(kind)
                value = context.mean(torch.tensor([float(context.rank)]))
                assert value.item() == 0.5
            print("finished", context.rank)
    except WbcnetsError as error:
        print("error:", error, flush=True)
        os._exit(1)


def misbehave(kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ValueError("a fault of its own")
    if kind == "hang":
        time.sleep(60)


def run_two(folder, work, *args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [
        Worker(
            folder / f"shown_{rank}.txt", work, *args,
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["kill", "raise", pytest.param("hang", marks=pytest.mark.long)])
def test_the_other_process_says_so_in_time(kind, tmp_path):
    first, second = run_two(tmp_path, exchange, kind, TIMEOUT)
    if kind != "hang":
        assert second.wait(60) != 0
    start = time.monotonic()
    assert first.wait(120) == 1, first.text
    # A hanging process cannot be waited for, so its start counts
    assert time.monotonic() - start < TIMEOUT + 5 + (30 if kind == "hang" else 0)
    second.kill()
    assert "process 0 of 2 had no answer from the others (1)" in first.text
    assert "Resume from the last checkpoint" in first.text


def test_without_a_failure_both_finish(tmp_path):
    for rank, worker in enumerate(run_two(tmp_path, exchange, "nothing", 60)):
        assert worker.wait(120) == 0, worker.text
        # Older versions of PyTorch report their connections, too
        lines = [line for line in worker.text.splitlines() if not line.startswith("[Gloo]")]
        assert lines == [f"finished {rank}"]


def train_badly(kind, rank, cells, output):
    """Trains; process ``rank`` sees numbers that are not finite."""
    original = Trainer._backward

    def backward(self, part, *args):
        bad = self.state.progress.global_step == 2 and self.context.rank == rank
        if bad and kind == "activation":
            part[0].mul_(float("inf"))
        loss = original(self, part, *args)
        if bad and kind == "gradient":
            next(self.state.model.parameters()).grad.fill_(float("nan"))
        return loss * float("nan") if bad and kind == "loss" else loss

    Trainer._backward = backward
    train_classifier(toy_config(cells, output, "training.ema_decay=0.9", "data.workers=0"))


CASES = [("loss", 0), ("gradient", 1), ("activation", 1)]
CASES += [("loss", 1), ("gradient", 0), ("activation", 0)] if LONG else []


@pytest.mark.parametrize(("kind", "rank"), CASES)
def test_numbers_that_are_not_finite_stay_out_of_all_weights(kind, rank, tmp_path):
    cells = make_cells(tmp_path / "cells")
    for worker in run_two(tmp_path, train_badly, kind, rank, cells, tmp_path / "run"):
        assert worker.wait(200) == 0, worker.text
    last = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert last["resume"]["bad_steps"]["total"] == 1
    tensors = read_weights(tmp_path / "run" / "last.pth")
    assert any(name.startswith("ema.") for name in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    kept = torch.load(tmp_path / "run" / "bad_step.pth", weights_only=True)
    assert len(kept["files"]) == 8
    assert (kept["epoch"], kept["step"]) == (1, 3)
