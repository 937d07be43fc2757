"""Thousands of images through training and prediction do not grow memory or open files."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stress.faults.builders import picture
from tests.stress.soak.scale import LONG, scaled
from tests.train.toy_runs import make_cells, toy_config

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(7200 if LONG else 600),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc"),
]
IMAGES = scaled(200, 10_000)
# Allocators and caches fill up at first; a leak keeps growing
ALLOWED_GROWTH = 40 << 20


def usage():
    """Returns resident bytes, open files, and files in shared memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    shared = Path("/dev/shm")
    blocks = sum(name.startswith("torch_") for name in os.listdir(shared)) if shared.exists() else 0
    return np.array([pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), blocks])


def check_flat(samples, name):
    """Asserts that the last fifth of the samples is no larger than the second fifth."""
    rows = np.array(samples)
    fifth = max(1, len(rows) // 5)
    early, late = np.median(rows[fifth : 2 * fifth], axis=0), np.median(rows[-fifth:], axis=0)
    print(
        f"{name}: {len(rows)} samples, memory {early[0] / 2**20:.0f} to {late[0] / 2**20:.0f} MiB, "
        f"files {early[1]:.0f} to {late[1]:.0f}, shared {early[2]:.0f} to {late[2]:.0f}"
    )
    assert late[0] - early[0] < ALLOWED_GROWTH
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + 2


def test_training_a_classifier(tmp_path, monkeypatch):
    from wbcnets.train.run import train_classifier
    from wbcnets.train.trainer import Trainer

    cells = make_cells(tmp_path / "cells", train=64)
    epochs = IMAGES // 192 + 1
    samples = []
    original = Trainer.evaluate

    def evaluate(self):
        samples.append(usage())
        return original(self)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    train_classifier(
        toy_config(cells, tmp_path / "run", f"training.epochs={epochs}", "data.workers=2",
                   "training.ema_decay=0.9", "training.batch_size=32")
    )  # fmt: skip
    assert len(samples) == epochs
    check_flat(samples, "classifier, training")


def test_training_and_using_a_detector(tmp_path, tiny_config, smears):
    pytest.importorskip("detectron2")
    from detectron2.engine import HookBase

    from mfds_detr.data.datasets import DatasetSource, register_datasets
    from mfds_detr.engine.trainer import Trainer

    source = DatasetSource("soaked", smears.json_file, smears.images)
    names = register_datasets(["soaked"], [], [source], tmp_path / "cache")["soaked"].class_names
    steps = IMAGES // 4
    cfg = tiny_config(
        "DATASETS.TRAIN", ("soaked",), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 4,
        "INPUT.MIN_SIZE_TRAIN", (64, 80), "INPUT.ALBUMENTATIONS.PRESET", "stain",
        "SOLVER.MAX_ITER", steps, "TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD",
        max(10, steps // 10), "DATALOADER.NUM_WORKERS", 2, "OUTPUT_DIR", str(tmp_path),
    )  # fmt: skip
    samples = []

    class Sampler(HookBase):
        def after_step(self):
            if self.trainer.iter % max(1, steps // 50) == 0:
                samples.append(usage())

    trainer = Trainer(cfg, names)
    trainer.register_hooks([Sampler()])
    trainer.resume_or_load(resume=False)
    trainer.train()
    check_flat(samples, "detector, training")
    model, samples = trainer.eval_model.eval(), []
    with torch.no_grad():
        for number in range(IMAGES):
            pixels = np.asarray(picture(number, 80 + number % 5 * 8, 64)).transpose(2, 0, 1)
            model([{"image": torch.from_numpy(pixels.copy())}])
            if number % max(1, IMAGES // 50) == 0:
                samples.append(usage())
    check_flat(samples, "detector, prediction")
