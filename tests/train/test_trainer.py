import csv
import json
import logging
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.toy_runs import COLORS, differences, make_cells, read_weights, toy_config
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.io.checkpoints import read_checkpoint, read_state_dict
from wbcnets.train.config_file import load_config
from wbcnets.train.data import count_workers, find_splits
from wbcnets.train.optim import create_optimizer, create_schedule
from wbcnets.train.run import resume_training, train_classifier
from wbcnets.train.sampling import StepSampler, balanced_quotas
from wbcnets.train.trainer import Trainer

FILES = (
    *("README.txt", "best.json", "best.pth", "classes.json", "config.yaml", "first_batch.png"),
    *("last.pth", "log.csv", "splits.json", "train.log"),
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return make_cells(tmp_path_factory.mktemp("cells") / "toy")


def test_the_folder_of_a_run(cells, tmp_path):
    run = tmp_path / "run"
    progress = train_classifier(toy_config(cells, run, "training.ema_decay=0.9"))
    assert {path.name for path in run.iterdir()} >= set(FILES)
    assert json.loads((run / "classes.json").read_text()) == list(COLORS)
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [float(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[-1]["val_accuracy"]) == progress.rows[-1]["val_accuracy"]
    assert load_config(run / "config.yaml").training.ema_decay == 0.9
    log = (run / "train.log").read_text()
    assert "augmentation for training: stain: resize to 32; D4" in log
    assert re.search(r"data loading [0-9]+ images/s, model [0-9]+ images/s", log)
    lists = json.loads((run / "splits.json").read_text())
    assert len(lists["train"]) == 36
    assert lists["val"]["val/red/0.png"][0] == "red"
    for line in (run / "README.txt").read_text().splitlines():
        name = line.split(" ")[0].rstrip("/")
        if "." in name and "*" not in name and line[len(name) : len(name) + 2] == "  ":
            assert (run / name).exists(), name


def test_checkpoints_say_what_they_are(cells, tmp_path):
    run = tmp_path / "run"
    options = ("training.ema_decay=0.9", "model.kwargs.drop_rate=0.1")
    train_classifier(toy_config(cells, run, *options))
    for name in ("best.pth", "last.pth"):
        data = torch.load(run / name, weights_only=True)
        assert data["model"] == {
            "name": "test_resnet",
            "kwargs": {"drop_rate": 0.1},
            "num_classes": 3,
        }
        assert data["class_names"] == list(COLORS)
        assert data["data_config"]["input_size"] == [3, 32, 32]
        assert data["data_config"]["mean"] == [0.5, 0.5, 0.5]
        assert data["config"]["data"]["img_size"] == 32
        assert ("resume" in data) == (name == "last.pth")
        # The library's reader takes the averaged weights where there are some
        read = read_state_dict(run / name)
        assert all(torch.equal(read[key], data["state_dict_ema"][key]) for key in read)
        assert read_checkpoint(run / name)["architecture"] == data["model"]
    best = json.loads((run / "best.json").read_text())
    data = torch.load(run / "best.pth", weights_only=True)
    assert best["overall"]["accuracy"] == data["metrics"]["accuracy"]
    assert best["epoch"] == data["epoch"]


def test_training_learns(cells, tmp_path):
    options = ("training.epochs=8", "data.augmentation=flips", "optimizer.lr=3e-3")
    progress = train_classifier(toy_config(cells, tmp_path / "run", *options))
    assert progress.rows[-1]["train_loss"] < 0.5 * progress.rows[0]["train_loss"]
    assert progress.best > 0.9


def test_best_weights_are_the_best_epochs(cells, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.8])
    real = Trainer.evaluate

    def evaluate(self):
        metrics = real(self)
        return replace(metrics, overall={**metrics.overall, "accuracy": next(scores)})

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    options = ("training.epochs=5", "training.early_stopping=2")
    progress = train_classifier(toy_config(cells, tmp_path / "run", *options))
    assert [row["epoch"] for row in progress.rows] == [1, 2, 3, 4]
    assert (progress.best, progress.best_epoch) == (0.9, 1)
    data = torch.load(tmp_path / "run" / "best.pth", weights_only=True)
    assert data["metrics"]["accuracy"] == 0.9
    assert "stopped after 4 epochs: no better" in (tmp_path / "run" / "train.log").read_text()


def test_a_small_loss_can_decide(cells, tmp_path):
    progress = train_classifier(
        toy_config(cells, tmp_path / "run", "training.best_metric=log_loss", "training.epochs=3")
    )
    losses = [row["val_log_loss"] for row in progress.rows]
    assert progress.best == -min(losses)
    assert progress.best_epoch == losses.index(min(losses))


def test_time_ends_a_run(cells, tmp_path):
    progress = train_classifier(
        toy_config(cells, tmp_path / "run", "training.max_minutes=1e-9", "training.epochs=50")
    )
    assert progress.global_step == 0
    assert (tmp_path / "run" / "last.pth").exists()


def poisoned(monkeypatch, bad_steps):
    """Makes the images of some steps infinite."""
    real = Trainer.train_step

    def train_step(self, parts):
        if self.state.progress.global_step in bad_steps:
            parts = [[images * math.inf, labels] for images, labels in parts]
        return real(self, parts)

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.mark.parametrize("amp", ["none", "float16"])
def test_a_step_that_is_not_finite_changes_nothing(cells, tmp_path, monkeypatch, caplog, amp):
    options = (
        *("loss.name={cross_entropy: 1, center: 0.05}", f"training.amp={amp}"),
        *("training.epochs=1", "training.checkpoint_minutes=0"),
    )
    kept = []
    real = Trainer.train_step

    def train_step(self, parts):
        loss = real(self, parts)
        tensors = [*self.state.model.state_dict().values(), *self.state.loss.buffers()]
        kept.append([tensor.clone() for tensor in tensors if tensor.is_floating_point()])
        return loss

    monkeypatch.setattr(Trainer, "train_step", train_step)
    poisoned(monkeypatch, {2})
    caplog.set_level(logging.WARNING, "wbcnets")
    progress = train_classifier(toy_config(cells, tmp_path / "run", *options))
    assert progress.rows[-1]["bad_steps"] == 1
    assert "epoch 1, step 3" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(kept[1], kept[2]))
    assert not all(torch.equal(a, b) for a, b in zip(kept[2], kept[3]))
    weights = read_weights(tmp_path / "run" / "last.pth")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_steps_that_stay_infinite_end_the_run_and_name_the_images(cells, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1, 2, 3})
    config = toy_config(cells, tmp_path / "run", "training.max_bad_steps=3")
    with pytest.raises(FloatingPointError) as caught:
        train_classifier(config)
    message = str(caught.value)
    assert "epoch 1, step 4: loss" in message
    assert "bad step 3 in a row" in message
    sampler = StepSampler([0] * 36, 8)
    files = [image.file for image in find_splits(config.data).train.images]
    assert all(files[index] in message for index in sampler.step_indices(0, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("loss.name={cross_entropy: 1000}", "training.amp=float16"),
            r"in all 8 steps: .*learned no",
        ),
        (
            ("optimizer.lr=1000", "optimizer.weight_decay=1000"),
            r"after epoch \d .* diverged; lower",
        ),
    ],
)
def test_a_run_that_learned_nothing_is_no_success(cells, tmp_path, options, message):
    with pytest.raises(FloatingPointError, match=message):
        train_classifier(toy_config(cells, tmp_path / "run", *options))
    assert not (tmp_path / "run" / "best.pth").exists()


def test_bad_steps_alone_leave_no_best_weights(cells, tmp_path, monkeypatch):
    poisoned(monkeypatch, set(range(8)))
    with pytest.raises(FloatingPointError, match="in all 8 steps: the weights did not change"):
        train_classifier(toy_config(cells, tmp_path / "run"))
    assert (tmp_path / "run" / "last.pth").exists()
    assert not (tmp_path / "run" / "best.pth").exists()
    with pytest.raises(FloatingPointError, match="in all 8 steps"):
        resume_training(tmp_path / "run")


def test_a_metric_that_is_undefined_cannot_choose_the_best_epoch(cells, tmp_path):
    few = tmp_path / "few"
    for path in cells.glob("*/*/*.png"):
        if path.parts[-3] == "train" or path.parts[-2] == "red":
            target = few / path.relative_to(cells)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    options = ("training.best_metric=auroc_macro", "training.epochs=1")
    with pytest.raises(DataError, match=r"auroc_macro is undefined .*training\.best_metric=acc"):
        train_classifier(toy_config(few, tmp_path / "run", *options))


def test_epochs_have_a_largest_length(cells, tmp_path):
    with pytest.raises(DataError, match=r"repeats .*1,200,000,024 images in an epoch.*5,000,000"):
        train_classifier(toy_config(cells, tmp_path / "run", "data.repeats.red=100000000"))


@pytest.mark.parametrize(
    "options",
    [
        ("training.amp=bfloat16", "training.channels_last=true"),
        ("training.amp=float16", "training.channels_last=false"),
        ("model.name=test_vit", "training.grad_checkpointing=true", "optimizer.layer_decay=0.7"),
        ("data.sampler=class_balanced", "data.cache=true", "optimizer.name=lamb"),
        ("mixup.mixup_alpha=0.2", "mixup.cutmix_alpha=1", "loss.label_smoothing=0.1"),
        ("loss.name=resnext_cc", "optimizer.name=sgd", "schedule.name=step"),
        ("loss.name=conv_sparse_vit", "schedule.name=tanh", "optimizer.betas=[0.9, 0.95]"),
    ],
)
def test_options_train(cells, tmp_path, options):
    progress = train_classifier(toy_config(cells, tmp_path / "run", *options))
    assert progress.epoch == 2
    assert progress.rows[-1]["bad_steps"] == 0
    assert all(math.isfinite(row["train_loss"]) for row in progress.rows)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_gives_about_the_same_weights(cells, tmp_path):
    options = ("model.name=test_vit", "training.epochs=1", "optimizer.name=sgd")
    for name in ("plain", "compiled"):
        compiles = f"training.compile={str(name == 'compiled').lower()}"
        train_classifier(toy_config(cells, tmp_path / name, *options, compiles))
    plain, compiled = (read_weights(tmp_path / name / "last.pth") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for key in plain:
        torch.testing.assert_close(compiled[key], plain[key], atol=1e-4, rtol=1e-3, msg=key)


def test_weights_of_other_classes_are_a_start(cells, tmp_path):
    train_classifier(toy_config(cells, tmp_path / "first", "training.epochs=1"))
    two = tmp_path / "two"
    for split in ("train", "val"):
        for name in ("red", "blue"):
            (two / split).mkdir(parents=True, exist_ok=True)
            (two / split / name).symlink_to(cells / split / name)
    for folder in list(two.glob("*/*")):  # links are not followed: copy instead
        source = folder.resolve()
        folder.unlink()
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    start = tmp_path / "first" / "best.pth"
    options = (f"model.weights={start}", "training.epochs=1", "optimizer.lr=1e-9")
    train_classifier(toy_config(two, tmp_path / "second", *options))
    before, after = read_state_dict(start), read_state_dict(tmp_path / "second" / "last.pth")
    torch.testing.assert_close(after["conv1.0.weight"], before["conv1.0.weight"])
    assert after["fc.weight"].shape[0] == 2
    with pytest.raises(CheckpointError, match="no such file"):
        train_classifier(toy_config(two, tmp_path / "third", "model.weights=nothing.pth"))


def test_a_folder_without_splits_is_divided(cells, tmp_path):
    whole = tmp_path / "whole"
    for path in (cells / "train").glob("*/*.png"):
        (whole / path.parent.name).mkdir(parents=True, exist_ok=True)
        (whole / path.parent.name / path.name).write_bytes(path.read_bytes())
    data = toy_config(whole, tmp_path / "run").data
    splits = find_splits(data)
    assert len(splits.train.images) + len(splits.val.images) == 36
    assert splits.fingerprint() == find_splits(data).fingerprint()
    data.split_protocol, data.train_split, data.val_split = "3 folds", "fold0+fold2", "fold1"
    folds = find_splits(data)
    assert {image.split for image in folds.train.images} == {"fold0", "fold2"}


def test_data_that_cannot_be_trained_on(cells, tmp_path):
    empty = make_cells(tmp_path / "empty", train=4, val=2)
    for file in (empty / "train" / "red").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no training image of red"):
        train_classifier(toy_config(empty, tmp_path / "run"))
    with pytest.raises(DataError, match="36 images are in both train and train"):
        train_classifier(toy_config(cells, tmp_path / "run", "data.val_split=train"))
    with pytest.raises(DataError, match='no image is in the split "test"'):
        train_classifier(toy_config(cells, tmp_path / "run", "data.val_split=test"))
    with pytest.raises(ConfigError, match=r"data\.source is empty"):
        train_classifier(toy_config(cells, tmp_path / "run", "data.source="))
    wide = make_cells(tmp_path / "wide", train=4, val=2)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(wide / "train" / "red" / "0.png")
    (wide / "train" / "red" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/red/1\.png"):
        train_classifier(toy_config(wide, tmp_path / "run"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=resnet19", r"model\.name='resnet19' is unknown; this library has"),
        ("model.kwargs.color=red", r"model\.kwargs: test_resnet has no parameter color"),
        ("training.batch_size=64", r"is more than the 36 training images"),
        ("training.grad_accum_steps=3", r"cannot be divided into 3 parts"),
        ("optimizer.name=adamm", r"optimizer \(name='adamm'.*timm has"),
        ("loss.name=cross_entropie", r"loss 'cross_entropie' is unknown"),
        ("loss.name=center", r"the classifier would not learn"),
        ("data.augmentation=stains", r"augmentation preset 'stains' is unknown"),
        ("output=", r"output is empty"),
        (
            "optimizer.betas=[0.9]",
            r"betas=\[0\.9\] should look like the default, \(0\.9, 0\.999\)",
        ),
        ("optimizer.kwargs.amsgrad=x", r"amsgrad='x' should look like the default, False"),
        ("optimizer.kwargs.eps=x", r"eps='x' should look like the default, 1e-08"),
        ("optimizer.kwargs.param_group_fn=x", r"optimizer .*param_group_fn cannot be set for it"),
        ("optimizer.kwargs.maximize=true", r"maximize cannot be set for it; it has amsgrad, betas"),
        ("optimizer.kwargs.foreach=fast", r"foreach='fast' should look like the default, None"),
        ("optimizer.kwargs.betas=ab", r"betas='ab' should look like the default, \(0\.9, 0\.999\)"),
        ("optimizer.kwargs.betas=[0.9, true]", r"betas=\[0\.9, True\] should look like"),
        ("optimizer.kwargs.eps=-1", r"eps=-1 should not be below 0"),
        ("optimizer.kwargs.layer_decay_min_scale=a", r"min_scale='a' should look like .* 0\.0"),
        ("optimizer.kwargs.filter_bias_and_bn=1", r"filter_bias_and_bn=1 should look like"),
        ("loss.options.cross_entropy.label_smoothing=x", r"options of the loss 'cross_entropy'"),
        ("loss.options.cross_entropy.reduction=x", r"options of the loss .*reduction"),
        ("data.transforms=[{name: Normalize}]", r"'Normalize'\} gives no RGB image of 8 bits"),
        ("data.transforms=[{name: ToGray, num_output_channels: 1, p: 0.1}]", r"gives no RGB image"),
        ("data.transforms=[{name: BasicTransform}]", r"albumentations refused"),
        (
            "data.transforms=[{name: RandomCrop, height: 500, width: 500, p: 0.1}]",
            r"cannot apply .*'RandomCrop'.* to an image of 32x32 px",
        ),
        ("model.kwargs.in_chans=5", r"model\.kwargs=\{'in_chans': 5\} cannot classify .* channels"),
        ("model.kwargs.channels=[0, 0, 0, 0]", r"cannot classify 2 images of data\.img_size=32 px"),
        ("model.kwargs.drop_rate=5", r"model\.kwargs\.drop_rate=5 should be a probability"),
        ("model.kwargs.drop_path_rate=-3", r"drop_path_rate=-3 should be a probability"),
        ("model.kwargs.stem_width=65536", r"it would hold more than .* the free memory is"),
    ],
)
def test_settings_that_cannot_be_trained_with(cells, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        train_classifier(toy_config(cells, tmp_path / "run", override))


def test_mixup_wants_pairs(cells, tmp_path):
    options = ("mixup.mixup_alpha=1", "training.batch_size=9")
    with pytest.raises(ConfigError, match="each part of a step has 9"):
        train_classifier(toy_config(cells, tmp_path / "run", *options))


def test_schedules_decay_at_their_epochs():
    steps = 10
    config = load_config(
        "conv_sparse_vit_aml", ["schedule.warmup_epochs=0", "model.pretrained=false"]
    )
    optimizer = create_optimizer(config.optimizer, torch.nn.Linear(2, 2))
    schedule = create_schedule(config, optimizer, steps)
    rates = {}
    for epoch in (0, 38, 41, 68, 71, 88, 91, 99):
        schedule.step_update(epoch * steps)
        rates[epoch] = optimizer.param_groups[0]["lr"]
    expected = [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    assert list(rates.values()) == pytest.approx(expected)
    assert optimizer.defaults["nesterov"] is False
    config = load_config("", ["schedule.name=constant", "schedule.warmup_epochs=2"])
    optimizer = create_optimizer(config.optimizer, torch.nn.Linear(2, 2))
    schedule = create_schedule(config, optimizer, steps)
    schedule.step_update(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)
    schedule.step_update(25 * steps)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_an_epoch_has_every_image_once():
    sampler = StepSampler(range(50), 8, seed=3)
    assert sampler.steps_per_epoch == 6
    first, second = sampler.order(0), sampler.order(1)
    assert len(set(first)) == 48
    assert not np.array_equal(first, second)
    assert np.array_equal(first, StepSampler(range(50), 8, seed=3).order(0))
    sampler.set_position(0, 2)
    assert np.concatenate(list(sampler)).tolist() == first[16:].tolist()
    assert len(sampler) == 4


def test_processes_and_parts_divide_the_same_steps():
    whole = StepSampler(range(50), 12, seed=3)
    shares = [
        list(StepSampler(range(50), 12, seed=3, grad_accum_steps=2, rank=rank, world_size=3))
        for rank in range(3)
    ]
    for number, batch in enumerate(whole):
        parts = [shares[rank][2 * number + part] for part in (0, 1) for rank in range(3)]
        assert [index for part in parts for index in part] == batch
    with pytest.raises(ConfigError, match="multiple of 5"):
        StepSampler(range(50), 12, world_size=5)


def test_balanced_epochs_have_as_many_of_each_class(cells, tmp_path):
    assert balanced_quotas([30, 0, 6]) == [18, 0, 18]
    labels = [0] * 30 + [2] * 6 * 3
    sampler = StepSampler(labels, 6, quotas=[18, 0, 18])
    drawn = np.asarray(labels)[sampler.order(4)]
    assert np.bincount(drawn).tolist() == [18, 0, 18]
    assert len(set(sampler.order(4).tolist())) == 36


def test_workers_are_shared_by_processes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert [count_workers(-1, count) for count in (1, 2, 8)] == [6, 3, 1]
    assert count_workers(0, 2) == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert count_workers(-1, 1) == 8


def test_the_same_settings_give_the_same_bits(cells, tmp_path):
    for name, workers in (("one", 0), ("other", 2)):
        train_classifier(toy_config(cells, tmp_path / name, f"data.workers={workers}"))
    assert differences(tmp_path / "one" / "last.pth", tmp_path / "other" / "last.pth") == []
    train_classifier(toy_config(cells, tmp_path / "third", "training.seed=1"))
    assert differences(tmp_path / "one" / "last.pth", tmp_path / "third" / "last.pth")
