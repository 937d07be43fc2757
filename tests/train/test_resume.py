import os
import signal
import time

import pytest
import torch

from tests.processes import Worker
from tests.train.toy_runs import differences, make_cells, read_weights, toy_config
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.train.run import resume_training, train_classifier
from wbcnets.train.trainer import Trainer

# Everything that is random or has a state
EVERYTHING = (
    "training.ema_decay=0.9",
    "training.grad_accum_steps=2",
    "loss.name={cross_entropy: 1, center: 0.05}",
    "mixup.mixup_alpha=0.2",
    "mixup.cutmix_alpha=1",
    "model.kwargs.drop_rate=0.2",
    "schedule.warmup_epochs=1",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return make_cells(tmp_path_factory.mktemp("cells") / "toy")


def crash_after(steps, monkeypatch, config):
    """Starts a run that ends like a crash after some steps."""
    real, taken = Trainer.train_step, []

    def train_step(self, parts):
        if len(taken) == steps:
            raise RuntimeError("crash")
        taken.append(1)
        return real(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(RuntimeError, match="crash"):
            train_classifier(config)


def train_slowly(config):
    real = Trainer.train_step

    def slow(self, parts):
        time.sleep(0.3)
        return real(self, parts)

    Trainer.train_step = slow
    train_classifier(config)


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_a_crashed_run_ends_with_the_same_bits(cells, tmp_path, monkeypatch, steps):
    train_classifier(toy_config(cells, tmp_path / "whole", *EVERYTHING))
    options = (*EVERYTHING, "training.checkpoint_minutes=0")
    crash_after(steps, monkeypatch, toy_config(cells, tmp_path / "parts", *options))
    progress = resume_training(tmp_path / "parts")
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "parts" / "last.pth") == []
    assert differences(tmp_path / "whole" / "best.pth", tmp_path / "parts" / "best.pth") == []
    assert [row["epoch"] for row in progress.rows] == [1, 2]
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("calls", [1, 3, 7])
def test_a_crash_inside_an_accumulated_step(cells, tmp_path, monkeypatch, calls):
    train_classifier(toy_config(cells, tmp_path / "whole", *EVERYTHING))
    real, taken = Trainer._backward, []

    def backward(self, *args):
        if len(taken) == calls:  # the second of a step's two parts
            raise RuntimeError("crash")
        taken.append(1)
        return real(self, *args)

    options = (*EVERYTHING, "training.checkpoint_minutes=0")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", backward)
        with pytest.raises(RuntimeError, match="crash"):
            train_classifier(toy_config(cells, tmp_path / "parts", *options))
    resume_training(tmp_path / "parts")
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "parts" / "last.pth") == []


def test_a_killed_process_continues_with_other_workers(cells, tmp_path):
    options = ("training.epochs=3", "optimizer.name=sgd", "data.augmentation=flips")
    train_classifier(toy_config(cells, tmp_path / "whole", *options))
    killed = tmp_path / "killed"
    overrides = [*options, "training.checkpoint_minutes=0"]
    config = toy_config(cells, killed, *overrides)
    worker = Worker(tmp_path / "shown.txt", train_slowly, config)
    deadline = time.monotonic() + 120
    while not (killed / "last.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert worker.is_alive, worker.text
    assert worker.kill() == -signal.SIGKILL
    saved = torch.load(killed / "last.pth", weights_only=True)["resume"]["progress"]
    assert saved["global_step"] < 12
    resume_training(killed, ["data.workers=2"])
    assert differences(tmp_path / "whole" / "last.pth", killed / "last.pth") == []


def test_an_interrupted_run_is_saved_and_continues(cells, tmp_path, monkeypatch):
    train_classifier(toy_config(cells, tmp_path / "whole"))
    real = Trainer.train_step

    def train_step(self, parts):
        if self.state.progress.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(toy_config(cells, tmp_path / "parts"))
    resume_training(tmp_path / "parts")
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "parts" / "last.pth") == []


def test_a_run_without_a_checkpoint_begins_again(cells, tmp_path, monkeypatch):
    train_classifier(toy_config(cells, tmp_path / "whole"))
    crash_after(1, monkeypatch, toy_config(cells, tmp_path / "parts"))
    assert not (tmp_path / "parts" / "last.pth").exists()
    resume_training(tmp_path / "parts")
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "parts" / "last.pth") == []


def test_a_finished_run_stays_as_it_is(cells, tmp_path):
    train_classifier(toy_config(cells, tmp_path / "run"))
    before = read_weights(tmp_path / "run" / "last.pth")
    progress = resume_training(tmp_path / "run")
    after = read_weights(tmp_path / "run" / "last.pth")
    assert progress.epoch == 2
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_moved_run_continues_where_it_is_now(cells, tmp_path, monkeypatch):
    train_classifier(toy_config(cells, tmp_path / "whole"))
    crash_after(4, monkeypatch, toy_config(cells, tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    for age, path in enumerate(sorted((tmp_path / "new").iterdir())):
        os.utime(path, (1000 - age, 1000 - age))
    assert resume_training(tmp_path / "new").epoch == 2
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "new" / "last.pth") == []
    assert not (tmp_path / "old").exists()


def test_other_epochs_and_another_trainers_checkpoint_are_refused(cells, tmp_path):
    run = tmp_path / "run"
    train_classifier(toy_config(cells, run))
    for epochs in (1, 3):
        with pytest.raises(ConfigError, match=rf"training\.epochs: 2 then, {epochs} now"):
            resume_training(run, [f"training.epochs={epochs}"])
    weights = torch.load(run / "last.pth", weights_only=True)["state_dict"]
    torch.save({"model": weights, "iteration": 5, "optimizer": {}}, run / "last.pth")  # Detectron2
    with pytest.raises(CheckpointError, match=r"last\.pth: holds weights alone; put a run's last"):
        resume_training(run)


def test_runs_that_cannot_continue_are_refused(cells, tmp_path):
    with pytest.raises(ConfigError, match="no run to resume"):
        resume_training(tmp_path / "nothing")
    run = tmp_path / "run"
    train_classifier(toy_config(cells, run, "training.epochs=1"))
    with pytest.raises(ConfigError, match="holds a run already"):
        train_classifier(toy_config(cells, run))
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.001 then, 1\.0 now"):
        resume_training(run, ["optimizer.lr=1"])
    others = make_cells(tmp_path / "others", train=13)
    with pytest.raises(DataError, match="other images"):
        resume_training(run, [f"data.source={others}"])
    (run / "last.pth").write_bytes((run / "best.pth").read_bytes())
    with pytest.raises(CheckpointError, match="holds weights alone"):
        resume_training(run)


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(cells, tmp_path, monkeypatch, caplog):
    train_classifier(toy_config(cells, tmp_path / "whole"))
    run = tmp_path / "run"
    options = ("training.checkpoint_minutes=0",)
    crash_after(5, monkeypatch, toy_config(cells, run, *options))
    last = bytearray((run / "last.pth").read_bytes())
    last[len(last) // 2] ^= 1
    (run / "last.pth").write_bytes(last)
    resume_training(run)
    assert "last.pth: damaged" in caplog.text
    assert "trying the one before" in caplog.text
    assert differences(tmp_path / "whole" / "last.pth", run / "last.pth") == []


def test_an_error_names_every_damaged_checkpoint(cells, tmp_path):
    run = tmp_path / "run"
    train_classifier(toy_config(cells, run))
    for name in ("last.pth", "previous.pth"):
        (run / name).write_bytes((run / name).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no checkpoint can be resumed") as caught:
        resume_training(run)
    assert "last.pth: damaged" in str(caught.value)
    assert "previous.pth: damaged" in str(caught.value)
