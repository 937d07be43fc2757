"""Two runs that start in one folder at random moments: one writes it, the other is refused."""

import csv
import random
import socket
import time
from contextlib import ExitStack

import pytest
import torch

from tests.processes import Worker
from tests.stress.soak.scale import LONG, scaled
from tests.train.toy_runs import make_cells, toy_config
from wbcnets.cli.main import exit_code, run_command
from wbcnets.errors import WbcnetsError
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.train.run import resume_training, train_classifier

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200 if LONG else 600)]
ATTEMPTS = scaled(10, 100)  # of each trainer
EPOCHS = 3


def answer(work, *arguments):
    """Runs a training; returns its exit code and prints its error, as the command does."""
    try:
        work(*arguments)
    except WbcnetsError as error:
        print(f"error: {error}", flush=True)
        return exit_code(error)
    return 0


def start_pair(folder, attempt, first, second):
    """Starts two processes, the second one a random time after the first."""
    generator = random.Random(time.time_ns() if LONG else attempt)
    workers = [Worker(folder / f"{attempt}_first.txt", *first)]
    time.sleep(generator.choice((0, generator.uniform(0, 0.3), generator.uniform(0, 2.5))))
    return [*workers, Worker(folder / f"{attempt}_second.txt", *second)]


def one_winner(workers):
    """Asserts that one run went through and the other one was refused; returns the winner's index.

    The second may also come when the first has ended: then it finds an earlier run.
    """
    codes = [worker.wait(120) for worker in workers]
    texts = [worker.text for worker in workers]
    assert sorted(codes) == [0, 2], texts
    loser = codes.index(2)
    assert "is being written by wbcnets train" in texts[loser] or "holds a" in texts[loser]
    assert "Traceback" not in texts[loser]
    return 1 - loser


@pytest.mark.parametrize("attempt", range(ATTEMPTS))
def test_two_classifiers(attempt, tmp_path):
    cells = make_cells(tmp_path / "cells")
    run = tmp_path / "run"
    configs = [
        toy_config(cells, run, f"training.seed={seed}", f"training.epochs={EPOCHS}")
        for seed in (1, 2)
    ]
    workers = start_pair(
        tmp_path, attempt, *((answer, train_classifier, config) for config in configs)
    )
    seed = 1 + one_winner(workers)
    for name in ("best.pth", "last.pth", "previous.pth"):
        assert read_checkpoint(run / name)["config"]["training"]["seed"] == seed
    with (run / "log.csv").open() as stream:
        assert [float(row["epoch"]) for row in csv.DictReader(stream)] == [1, 2, 3]
    assert (run / "train.log").read_text().count("epochs of") == 1
    assert f"seed: {seed}" in (run / "config.yaml").read_text()
    assert not list(run.glob(".*"))


def test_a_run_is_not_resumed_while_it_goes_on(tmp_path):
    cells = make_cells(tmp_path / "cells", train=24)
    run = tmp_path / "run"
    config = toy_config(cells, run, "training.epochs=20", "training.checkpoint_minutes=0")
    worker = Worker(tmp_path / "first.txt", answer, train_classifier, config)
    while not (run / "last.pth").exists():
        assert worker.is_alive, worker.text
        time.sleep(0.01)
    others = [
        Worker(tmp_path / f"{n}.txt", answer, resume_training, run) for n in range(scaled(2, 20))
    ]
    assert [other.wait(120) for other in others] == [2] * len(others)
    assert worker.is_alive, "the run ended before it was resumed: nothing was tried"
    assert all(f"process {worker.process.pid} on" in other.text for other in others)
    worker.kill()
    assert Worker(tmp_path / "last.txt", answer, resume_training, run).wait(200) == 0
    assert read_checkpoint(run / "last.pth")["epoch"] == 20


def free_ports(count):
    """Returns ports that differ, since all are taken at once."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def test_the_processes_of_one_run_share_its_folder(tmp_path):
    cells = make_cells(tmp_path / "cells")
    configs = [toy_config(cells, tmp_path / "run", f"training.seed={seed}") for seed in (1, 2)]
    workers = []
    for number, (config, port) in enumerate(zip(configs, free_ports(2))):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in (0, 1):
            place = {**shared, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = tmp_path / f"{number}_{rank}.txt"
            workers.append(Worker(log, answer, train_classifier, config, environment=place))
    codes = [worker.wait(200) for worker in workers]
    assert sorted((codes[:2], codes[2:])) == [[0, 0], [2, 2]], [worker.text for worker in workers]
    seed = 1 if codes[0] == 0 else 2
    assert read_checkpoint(tmp_path / "run" / "best.pth")["config"]["training"]["seed"] == seed


def train_detector(seed, arguments):
    from mfds_detr.cli import train

    return run_command(train, [*arguments, "SEED", str(seed)])


@pytest.mark.parametrize("attempt", range(ATTEMPTS))
def test_two_detectors(attempt, tmp_path, tiny_command_line, smears):
    pytest.importorskip("detectron2")
    run = tmp_path / "run"
    arguments = [
        "--dataset", f"mine={smears.json_file}:{smears.images}", *tiny_command_line,
        "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)", "OUTPUT_DIR", str(run),
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "1",
        "SOLVER.CHECKPOINTS_KEPT", "3", "TEST.EVAL_PERIOD", "2",
    ]  # fmt: skip
    workers = start_pair(tmp_path, attempt, *((train_detector, seed, arguments) for seed in (1, 2)))
    seed = 1 + one_winner(workers)
    for path in run.glob("model_*.pth"):
        assert torch.load(path, weights_only=True)["run"]["seed"] == seed, path
    assert f"SEED: {seed}" in (run / "config.yaml").read_text()
    assert (run / "log.txt").read_text().count("Training from iteration") == 1
    assert not list(run.glob(".*"))
