"""Trainings killed at random moments resume and end with the same bits as one that was not killed.

The processes are forks of this one, which has imported everything: hundreds of kills take minutes.
"""

import os
import random
import signal
import threading
import time

import pytest
import torch
from tqdm import tqdm

from tests.stress.soak.scale import LONG, scaled
from tests.train.toy_runs import differences, make_cells, toy_config
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.train.run import resume_training, train_classifier

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200 if LONG else 600)]
KILLS = scaled(4, 150)


def in_a_fork(work):
    """Starts ``work`` in a fork of this process and returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        torch.set_num_threads(1)
        # Forks share tqdm's own lock, which stays locked when one is killed while it writes
        tqdm.set_lock(threading.RLock())
        work()
        code = 0
    finally:
        os._exit(code)


def kill_repeatedly(start, resume, newest, kills):
    """Kills a training ``kills`` times or until it ends.

    Args:
        start: Starts the training.
        resume: Resumes it.
        newest: Returns the newest step that can be resumed, -1 if there is none.
        kills: Number of kills.

    Returns:
        The numbers of kills and of restarts that resumed from a checkpoint.
    """
    generator = random.Random(time.time_ns() if LONG else 0)
    counts = {"kills": 0, "resumed": 0}
    before = -1
    for attempt in range(10 * kills):
        pid = in_a_fork(start if attempt == 0 else resume)
        deadline = time.monotonic() + 120
        ended = False
        # Waits for one more checkpoint, so that the run advances, then for a random time
        while newest() <= before and not ended and time.monotonic() < deadline:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            time.sleep(0.001)
        if not ended:
            time.sleep(generator.uniform(0, 0.08))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            counts["kills"] += os.WIFSIGNALED(status)
        after = newest()
        assert after >= before, "a kill lost what was saved before"
        counts["resumed"] += after > before >= 0
        before = after
        if ended or counts["kills"] >= kills:
            break
    return counts


def newest_step(path):
    """Returns a function that reads a checkpoint's step; each version of it is read once."""
    known = {}

    def find():
        if not path.exists():
            return -1
        state = path.stat()
        key = (state.st_ino, state.st_mtime_ns)
        if key not in known:
            known[key] = read_checkpoint(path)["resume"]["progress"]["global_step"]
        return known[key]

    return find


def test_classifier(tmp_path):
    cells = make_cells(tmp_path / "cells", train=24)
    epochs = scaled(4, 40)
    options = (
        f"training.epochs={epochs}", "training.checkpoint_minutes=0", "training.ema_decay=0.9",
        "model.kwargs.drop_rate=0.2", "data.augmentation=flips",
    )  # fmt: skip
    torch.set_num_threads(1)
    train_classifier(toy_config(cells, tmp_path / "whole", *options))
    run = tmp_path / "run"
    counts = kill_repeatedly(
        lambda: train_classifier(toy_config(cells, run, *options)),
        lambda: resume_training(run),
        newest_step(run / "last.pth"),
        KILLS,
    )
    print(f"classifier: {counts}")
    assert counts["kills"] >= min(KILLS, 3)
    resume_training(run)
    assert differences(tmp_path / "whole" / "last.pth", run / "last.pth") == []
    assert not list(run.glob(".*.pth.*"))


def test_detector(tmp_path, tiny_config, smears):
    pytest.importorskip("detectron2")
    from mfds_detr.data.datasets import DatasetSource, register_datasets
    from mfds_detr.engine.trainer import Trainer
    from tests.mfds_detr.engine.test_resume import EVERYTHING
    from tests.mfds_detr.engine.test_resume import differences as detector_differences

    source = DatasetSource("resumed", smears.json_file, smears.images)
    names = register_datasets(["resumed"], [], [source], tmp_path / "cache")["resumed"].class_names
    steps = scaled(30, 400)

    def train(folder):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        cfg = tiny_config(
            *EVERYTHING, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", steps, "TEST.EVAL_PERIOD", 0,
            "SOLVER.CHECKPOINTS_KEPT", 3, "DATASETS.TEST", (),
        )  # fmt: skip
        trainer = Trainer(cfg, names)
        trainer.resume_or_load(resume=True)
        trainer.train()

    def newest():
        found = [int(path.stem[6:]) for path in (tmp_path / "run").glob("model_0*.pth")]
        return max(found, default=-1)

    torch.set_num_threads(1)
    train(tmp_path / "whole")
    run = tmp_path / "run"
    counts = kill_repeatedly(lambda: train(run), lambda: train(run), newest, KILLS)
    print(f"detector: {counts}")
    assert counts["kills"] >= min(KILLS, 3)
    train(run)
    assert detector_differences(tmp_path / "whole/model_final.pth", run / "model_final.pth") == []
