"""Two processes of which one dies, raises, hangs or has nothing to do."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 6
# Both exchange numbers; at the third exchange process 1 does something else
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import torch
from wbcnets.errors import WbcnetsError
from wbcnets.train.distributed import started_processes

def misbehave(kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ValueError("a fault of its own")
    if kind == "hang":
        time.sleep(60)

try:
    with started_processes("cpu", timeout={timeout}) as processes:
        for step in range(5):
            if step == 2 and processes.rank == 1:
                misbehave(sys.argv[1])
            value = processes.mean(torch.tensor([float(processes.rank)]))
            assert value.item() == 0.5
        print("finished", processes.rank)
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


@pytest.mark.parametrize("kind", ["kill", "raise", "hang"])
def test_the_other_process_says_so_in_time(kind, tmp_path):
    script = SCRIPT.format(root=str(ROOT), timeout=TIMEOUT)
    first, second = run_two(script, kind, tmp_path)
    if kind != "hang":
        second.wait(timeout=60)
    start = time.monotonic()
    shown, errors = first.communicate(timeout=120)
    # The start of the two processes is not counted where nothing else can be waited for
    assert time.monotonic() - start < TIMEOUT + 5 + (30 if kind == "hang" else 0)
    second.kill()
    second.communicate()
    assert first.returncode == 1, shown + errors
    assert "process 0 of 2 had no answer from the others (1)" in shown
    assert "Resume from the last checkpoint" in shown


def test_without_a_failure_both_finish(tmp_path):
    script = SCRIPT.format(root=str(ROOT), timeout=60)
    for rank, process in enumerate(run_two(script, "nothing", tmp_path)):
        shown, errors = process.communicate(timeout=120)
        assert shown == f"finished {rank}\n", errors
        assert process.returncode == 0
