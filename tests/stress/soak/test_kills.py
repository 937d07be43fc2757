"""Trainings killed at random moments end with the bits of an undisturbed one."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.processes import Worker
from tests.stress.soak.scale import LONG, scaled
from tests.train.toy_runs import differences, make_cells, toy_config
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.train.run import resume_training, train_classifier

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200 if LONG else 600)]
KILLS = scaled(4, 150)


def kill_repeatedly(start, resume, newest, kills):
    """Kills a training ``kills`` times or until it ends.

    Args:
        start: Returns a worker that starts the training.
        resume: Returns a worker that resumes it.
        newest: Returns the newest step that can be resumed, -1 if there is none.
        kills: Number of kills.

    Returns:
        The numbers of kills and of restarts that resumed from a checkpoint.
    """
    generator = random.Random(time.time_ns() if LONG else 0)
    counts = {"kills": 0, "resumed": 0}
    before = -1
    for attempt in range(10 * kills):
        worker = (start if attempt == 0 else resume)()
        deadline = time.monotonic() + 120
        # Waits for one more checkpoint, so that the run advances, then for a random time
        while newest() <= before and worker.is_alive and time.monotonic() < deadline:
            time.sleep(0.001)
        ended = not worker.is_alive
        if not ended:
            time.sleep(generator.uniform(0, 0.08))
            counts["kills"] += worker.kill() == -signal.SIGKILL
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
        lambda: Worker(tmp_path / "shown.txt", train_classifier, toy_config(cells, run, *options)),
        lambda: Worker(tmp_path / "shown.txt", resume_training, run),
        newest_step(run / "last.pth"),
        KILLS,
    )
    print(f"classifier: {counts}")
    assert counts["kills"] >= min(KILLS, 3)
    resume_training(run)
    assert differences(tmp_path / "whole" / "last.pth", run / "last.pth") == []
    assert not list(run.glob(".*.pth.*"))


def train_detector(cfg, source, cache):
    from mfds_detr.data.datasets import register_datasets
    from mfds_detr.engine.trainer import Trainer

    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    torch.manual_seed(0)
    names = register_datasets([source.name], [], [source], cache)[source.name].class_names
    trainer = Trainer(cfg, names)
    trainer.resume_or_load(resume=True)
    trainer.train()


def test_detector(tmp_path, tiny_config, smears):
    pytest.importorskip("detectron2")
    from mfds_detr.data.datasets import DatasetSource
    from tests.mfds_detr.engine.test_resume import EVERYTHING
    from tests.mfds_detr.engine.test_resume import differences as detector_differences

    source = DatasetSource("resumed", smears.json_file, smears.images)
    whole, run = tmp_path / "whole", tmp_path / "run"

    def train(folder):
        cfg = tiny_config(
            *EVERYTHING, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", scaled(30, 400),
            "TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINTS_KEPT", 3, "DATASETS.TEST", (),
        )  # fmt: skip
        return Worker(f"{folder}.txt", train_detector, cfg, source, tmp_path / "cache")

    def newest():
        found = [int(path.stem[6:]) for path in run.glob("model_0*.pth")]
        return max(found, default=-1)

    undisturbed = train(whole)
    assert undisturbed.wait() == 0, undisturbed.text
    counts = kill_repeatedly(lambda: train(run), lambda: train(run), newest, KILLS)
    print(f"detector: {counts}")
    assert counts["kills"] >= min(KILLS, 3)
    last = train(run)
    assert last.wait() == 0, last.text
    assert detector_differences(whole / "model_final.pth", run / "model_final.pth") == []
