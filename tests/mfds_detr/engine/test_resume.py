"""A run of a detector that is stopped and resumed ends with the bits of an uninterrupted one."""

import os
import random
import signal
import time

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine.trainer import Trainer
from tests.processes import Worker, run_script
from wbcnets.engine.signals import Terminated
from wbcnets.errors import ConfigError
from wbcnets.io.checkpoints import read_checkpoint

STEPS = 6
# Everything that is random or has a state; an epoch of six images has three steps
EVERYTHING = (
    "DATASETS.TRAIN", ("resumed",), "DATASETS.TEST", ("resumed",), "SOLVER.IMS_PER_BATCH", 2,
    "INPUT.MIN_SIZE_TRAIN", (80, 96), "INPUT.MIN_SIZE_TEST", 96, "INPUT.RANDOM_FLIP", "horizontal",
    "INPUT.ALBUMENTATIONS.PRESET", "stain", "INPUT.CROP_FRACTION", (0.7, 0.7),
    "MODEL.MFDS_DETR.DROPOUT", 0.1, "MODEL.TIMM.FROZEN_BN", False, "SOLVER.EMA.DECAY", 0.9,
    "SOLVER.WARMUP_ITERS", 2, "SOLVER.STEPS", (4,), "TEST.EVAL_PERIOD", 2,
    "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR",
    "TEST.SAMPLE_PICTURES", 0, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 100,
    "SOLVER.MAX_ITER", STEPS, "SOLVER.BASE_LR", 1e-2, "SEED", 5,
)  # fmt: skip


@pytest.fixture
def make_trainer(tiny_config, smears, tmp_path):
    source = DatasetSource("resumed", smears.json_file, smears.images)
    datasets = register_datasets(["resumed"], [], [source], tmp_path / "cache")

    def make(folder, *overrides, allowed=()):
        torch.manual_seed(0)
        folder.mkdir(exist_ok=True)
        cfg = tiny_config(*EVERYTHING, "OUTPUT_DIR", str(folder), *overrides)
        return Trainer(cfg, datasets["resumed"].class_names, allowed)

    return make


def run(trainer, stop_after=None):
    """Trains; with `stop_after` the run ends like a crash behind that many iterations."""
    trainer.resume_or_load(resume=True)
    original = trainer.run_step

    def step():
        if trainer.iter == stop_after:
            raise RuntimeError("crash")
        original()

    trainer.run_step = step
    if stop_after is None:
        trainer.train()
        return
    with pytest.raises(RuntimeError, match="crash"):
        trainer.train()


def flat(value, name=""):
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{name}.{i}").items()}
    return {name: value}


def differences(first, second):
    """Names of everything in two checkpoints that is not equal, tensors bit by bit."""
    one, other = flat(read_checkpoint(first)), flat(read_checkpoint(second))
    assert one.keys() == other.keys()
    # The settings include the folder of the run
    names = [name for name in one if name != ".run.settings"]
    assert sum(isinstance(one[name], torch.Tensor) for name in names) > 300
    return [
        name
        for name in names
        if not (
            torch.equal(one[name], other[name])
            if isinstance(one[name], torch.Tensor)
            else one[name] == other[name]
        )
    ]


@pytest.fixture
def whole(make_trainer, tmp_path):
    run(make_trainer(tmp_path / "whole"))
    return tmp_path / "whole" / "model_final.pth"


def test_a_crashed_run_ends_with_the_same_bits(make_trainer, whole, tmp_path):
    folder = tmp_path / "parts"
    for stop_after in (1, 2, 5):  # inside an epoch, at its end, and shortly before the end
        run(make_trainer(folder), stop_after)
    run(make_trainer(folder))
    assert differences(whole, folder / "model_final.pth") == []
    assert differences(whole, whole.with_name("model_0000002.pth")) != []


def test_workers_make_no_difference(make_trainer, whole, tmp_path):
    folder = tmp_path / "parts"
    run(make_trainer(folder, "DATALOADER.NUM_WORKERS", 2), 3)
    run(make_trainer(folder, "DATALOADER.NUM_WORKERS", 1))
    assert differences(whole, folder / "model_final.pth") == []


def test_an_interrupted_run_is_saved_and_continues(make_trainer, whole, tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    stopped = make_trainer(folder, "SOLVER.CHECKPOINT_PERIOD", 100)
    take_step = stopped.run_step

    def run_step():
        if stopped.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        take_step()

    monkeypatch.setattr(stopped, "run_step", run_step)
    with pytest.raises(Terminated):
        run(stopped)
    assert (folder / "last_checkpoint").read_text() == "model_0000002.pth"
    run(make_trainer(folder, "SOLVER.CHECKPOINT_PERIOD", 100))
    assert differences(whole, folder / "model_final.pth") == []


def test_a_run_without_a_seed_continues_with_its_own(make_trainer, tmp_path):
    folder = tmp_path / "parts"
    first = make_trainer(folder, "SEED", -1)
    run(first, 1)
    second = make_trainer(folder, "SEED", -1)
    assert second.guard.seed != first.guard.seed
    second.resume_or_load(resume=True)
    assert second.guard.seed == first.guard.seed


def test_other_settings_are_refused_by_name(make_trainer, tmp_path):
    folder = tmp_path / "parts"
    run(make_trainer(folder), 2)
    other = make_trainer(folder, "SOLVER.IMS_PER_BATCH", 3, "INPUT.CROP_PROBABILITY", 0.1)
    with pytest.raises(ConfigError) as caught:
        other.resume_or_load(resume=True)
    assert "SOLVER.IMS_PER_BATCH: 2 then, 3 now" in str(caught.value)
    assert "INPUT.CROP_PROBABILITY: 0.5 then, 0.1 now" in str(caught.value)
    assert caught.value.setting == "allow_config_change"
    make_trainer(folder, "SOLVER.BASE_LR", 1.0, allowed=["SOLVER.BASE_LR"]).resume_or_load(True)
    make_trainer(folder, "SOLVER.MAX_ITER", 9, "TEST.EVAL_PERIOD", 0).resume_or_load(True)
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER: 6 then, 9 now"):
        make_trainer(
            folder, "SOLVER.MAX_ITER", 9, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR",
            allowed=["SOLVER.LR_SCHEDULER_NAME"],
        ).resume_or_load(True)  # fmt: skip


def test_other_images_are_refused(make_trainer, tmp_path, smears, tiny_config):
    folder = tmp_path / "parts"
    run(make_trainer(folder), 1)
    changed = make_trainer(folder)
    changed.guard.settings["DATASETS.TRAIN.content"] = "0" * 64
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN\.content: '\w+' then, '0+' now"):
        changed.resume_or_load(resume=True)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_process_goes_on(tiny_command_line, smears, tmp_path, repository):
    """Kills at random moments, while training as well as while saving."""
    overrides = [str(value) for value in EVERYTHING]
    overrides[1] = overrides[3] = "('mine',)"

    def start(folder):
        arguments = [
            "--resume", "--dataset", f"mine={smears.json_file}:{smears.images}",
            *tiny_command_line, *overrides, "OUTPUT_DIR", str(folder),
        ]  # fmt: skip
        script = repository / "projects" / "mfds_detr" / "train_net.py"
        return Worker(f"{folder}.txt", run_script, script, *arguments)

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.text
    killed = tmp_path / "killed"
    generator = random.Random(0)
    for round_number in (1, 2):
        worker = start(killed)
        deadline = time.monotonic() + 200
        while len(list(killed.glob("model_*.pth"))) < round_number:
            assert time.monotonic() < deadline
            assert worker.is_alive, worker.text
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        worker.kill()
    last = start(killed)
    assert last.wait() == 0, last.text
    assert "Resuming from" in last.text
    assert differences(tmp_path / "whole/model_final.pth", killed / "model_final.pth") == []
