import copy
import json

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.utils.events import EventStorage

from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine import trainer as trainer_module
from mfds_detr.engine.evaluation import evaluate
from mfds_detr.engine.trainer import Trainer
from wbcnets.errors import DataError
from wbcnets.io.checkpoints import read_checkpoint

SMALL = (
    "DATASETS.TRAIN", ("trained",), "DATASETS.TEST", ("trained",), "SOLVER.IMS_PER_BATCH", 2,
    "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "INPUT.RANDOM_FLIP", "none",
    "INPUT.VERTICAL_FLIP", False, "SOLVER.WARMUP_ITERS", 0, "SOLVER.LR_SCHEDULER_NAME",
    "WarmupMultiStepLR", "SOLVER.STEPS", (), "TEST.EVAL_PERIOD", 0, "TEST.SAMPLE_PICTURES", 2,
    "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.MAX_ITER", 2,
)  # fmt: skip


@pytest.fixture
def make_trainer(tiny_config, smears, tmp_path):
    source = DatasetSource("trained", smears.json_file, smears.images)
    names = register_datasets(["trained"], [], [source], tmp_path / "cache")["trained"].class_names

    def make(*overrides):
        torch.manual_seed(0)
        cfg = tiny_config(*SMALL, "OUTPUT_DIR", str(tmp_path), *overrides)
        return Trainer(cfg, names)

    return make


def weights(module):
    return copy.deepcopy(module.state_dict())


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_its_files(make_trainer, tmp_path):
    trainer = make_trainer(
        "SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2
    )
    before = weights(trainer.network)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert not same(before, trainer.network.state_dict())
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model_0000001.pth", "model_final.pth", "model_best.pth", "last_checkpoint"} <= names
    assert {"metrics.json", "evaluation.json", "evaluation.md", "curves.png"} <= names
    assert {"predictions_trained.png", "tensorboard"} <= names
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    last = {key: value for row in rows for key, value in row.items()}
    assert last["total_loss"] > 0
    assert {"gradient_norm", "data_time", "lr", "eta_seconds"} <= set(last)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["iteration"] == 3
    assert "AP50" in record["results"]["trained"]
    checkpoint = read_checkpoint(tmp_path / "model_final.pth")
    assert tuple(checkpoint["class_names"]) == trainer.class_names
    assert {"optimizer", "scheduler", "ema", "iteration", "best"} <= set(checkpoint)


def test_rates_follow_the_schedule_in_every_group(make_trainer):
    trainer = make_trainer(
        "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", (1,), "SOLVER.GAMMA", 0.1,
        "SOLVER.BASE_LR", 1e-3, "SOLVER.BACKBONE_LR", 1e-4, "SOLVER.NECK_LR", 1e-2,
    )  # fmt: skip
    rates = []
    original = trainer.run_step
    groups = trainer.optimizer.param_groups
    trainer.run_step = lambda: (rates.append([g["lr"] for g in groups]), original())
    trainer.resume_or_load(resume=False)
    trainer.train()
    first = pytest.approx([1e-4, 1e-2, 1e-3, 3e-4])
    assert rates[0] == first
    assert rates[2] == pytest.approx([1e-5, 1e-3, 1e-4, 3e-5])


def run_steps(trainer, count=1):
    trainer._batches = iter(trainer.data_loader)
    trainer.model.train()
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            trainer.storage.step()
        return trainer.storage.latest()


def test_clipping(make_trainer):
    trainer = make_trainer("SOLVER.CLIP_NORM", 0.01)
    metrics = run_steps(trainer)
    assert metrics["gradient_norm"][0] > 0.01  # what is logged is the norm before
    total = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm()
    assert total.item() == pytest.approx(0.01, rel=1e-3)
    trainer = make_trainer("SOLVER.CLIP_NORM", 0.0)
    metrics = run_steps(trainer)
    total = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm()
    assert total.item() == pytest.approx(metrics["gradient_norm"][0], rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_change_nothing(make_trainer, tmp_path, value):
    trainer = make_trainer("SOLVER.MAX_BAD_STEPS", 3)
    run_steps(trainer)
    before, state = weights(trainer.network), copy.deepcopy(trainer.optimizer.state_dict())
    averaged = weights(trainer.ema.module)
    trainer.network.detector.query_embed.weight.register_hook(lambda gradient: gradient * value)
    with pytest.raises(FloatingPointError) as caught:
        run_steps(trainer, 5)
    assert trainer.iter == 2
    message = str(caught.value)
    assert "iteration 2" in message
    assert "weights did not change" in message
    assert "bad step 3 in a row" in message
    assert message.count("smear_0000") == 2
    after = trainer.network.state_dict()
    counters = [name for name in before if "num_batches" in name]
    assert all(torch.equal(before[name], after[name]) for name in before if name not in counters)
    kept = torch.load(tmp_path / "bad_step.pth", weights_only=True)
    assert (kept["iteration"], len(kept["images"]), len(kept["files"])) == (2, 2, 2)
    assert (tmp_path / "bad_step.png").is_file()
    assert same(averaged, trainer.ema.module.state_dict())
    for key, slots in state["state"].items():
        for name, slot in slots.items():
            assert torch.equal(slot, trainer.optimizer.state_dict()["state"][key][name])


def test_a_single_bad_step_is_skipped(make_trainer, caplog):
    trainer = make_trainer()
    calls = []

    def spoil(gradient):
        calls.append(1)
        return gradient * float("nan") if len(calls) == 2 else gradient

    trainer.network.detector.query_embed.weight.register_hook(spoil)
    run_steps(trainer, 3)
    assert "iteration 1: loss" in caplog.text
    assert "The step was skipped" in caplog.text
    assert (trainer.bad_steps.total, trainer.bad_steps.consecutive) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())


def test_activations_that_are_not_finite_do_not_reach_running_statistics(make_trainer):
    trainer = make_trainer("SOLVER.MAX_BAD_STEPS", 1, "MODEL.TIMM.FROZEN_BN", False)
    before = weights(trainer.network)
    assert any(name.endswith("running_mean") for name in before)
    # Adding a NaN to the first map makes all statistics behind it NaN
    trainer.network.backbone.register_forward_pre_hook(lambda module, args: (args[0] * torch.nan,))
    with pytest.raises(FloatingPointError, match="weights did not change"):
        run_steps(trainer)
    after = trainer.network.state_dict()
    for name in before:
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(before[name], after[name]), name


def test_losses_that_are_not_finite_stop(make_trainer):
    trainer = make_trainer("SOLVER.MAX_BAD_STEPS", 1)
    with torch.no_grad():
        trainer.network.neck.outputs[0][0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        run_steps(trainer)


def test_a_training_without_one_good_step_is_no_success(make_trainer, tmp_path):
    trainer = make_trainer("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1)
    weight = trainer.network.detector.query_embed.weight
    weight.register_hook(lambda gradient: gradient * torch.nan)
    trainer.resume_or_load(resume=False)
    with pytest.raises(FloatingPointError, match=r"in all 3 steps.* learned nothing; lower SOLVER"):
        trainer.train()
    assert not list(tmp_path.glob("model_[bf]*.pth"))


def test_resume_restores_everything(make_trainer, tmp_path):
    first = make_trainer("SOLVER.MAX_ITER", 2)
    first.resume_or_load(resume=False)
    first.train()
    second = make_trainer("SOLVER.MAX_ITER", 4)
    assert not same(second.network.state_dict(), first.network.state_dict())
    second.resume_or_load(resume=True)
    assert second.start_iter == 2
    assert same(second.network.state_dict(), first.network.state_dict())
    assert same(second.ema.module.state_dict(), first.ema.module.state_dict())
    assert second.scheduler.last_epoch == first.scheduler.last_epoch
    saved, loaded = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert saved["state"].keys() == loaded["state"].keys()
    for key, slots in saved["state"].items():
        for name, slot in slots.items():
            assert torch.equal(torch.as_tensor(slot), torch.as_tensor(loaded["state"][key][name]))
    seen = []
    original = second.run_step
    second.run_step = lambda: (seen.append(second.iter), original())
    second.train()
    assert seen == [2, 3]
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 3


def test_a_finished_run_is_not_trained_further(make_trainer):
    first = make_trainer()
    first.resume_or_load(resume=False)
    first.train()
    second = make_trainer()
    second.resume_or_load(resume=True)
    before = weights(second.network)
    second.train()
    assert same(before, second.network.state_dict())


def test_the_moving_average_moves_and_is_evaluated(make_trainer, monkeypatch):
    trainer = make_trainer("SOLVER.EMA.DECAY", 0.9)
    trainer.resume_or_load(resume=False)
    assert trainer.eval_model is trainer.ema.module
    run_steps(trainer, 3)
    name = "detector.query_embed.weight"
    assert not torch.equal(
        trainer.ema.module.state_dict()[name], trainer.network.state_dict()[name]
    )
    evaluated = []
    monkeypatch.setattr(
        trainer_module,
        "evaluate",
        lambda cfg, model, iteration, names: evaluated.append(model) or {},
    )
    trainer.evaluate()
    assert evaluated == [trainer.ema.module]
    assert make_trainer("SOLVER.EMA.ENABLED", False).ema is None


def test_the_moving_average_starts_at_the_loaded_weights(make_trainer, tmp_path):
    source = make_trainer()
    with torch.no_grad():
        source.network.detector.query_embed.weight.fill_(7.0)
    path = tmp_path / "start.pth"
    torch.save({"model": source.network.state_dict()}, path)
    trainer = make_trainer("MODEL.WEIGHTS", str(path))
    trainer.resume_or_load(resume=False)
    assert (trainer.ema.module.detector.query_embed.weight == 7.0).all()


def test_checkpoints_kept(make_trainer, tmp_path):
    trainer = make_trainer("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINTS_KEPT", 2)
    trainer.resume_or_load(resume=False)
    trainer.train()
    numbered = sorted(path.name for path in tmp_path.glob("model_0*.pth"))
    assert len(numbered) == 2
    assert "model_0000004.pth" in numbered


def test_bfloat16(make_trainer):
    trainer = make_trainer("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16")
    metrics = run_steps(trainer, 2)
    assert all(torch.isfinite(torch.tensor(value)) for value, _ in metrics.values())
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    metrics = evaluate(trainer.cfg, trainer.network)["trained"]
    assert 0 <= metrics["AP"] <= 100


def test_a_corrupt_image_ends_training_with_its_name(make_trainer, smears, tmp_path):
    trainer = make_trainer()
    broken = tmp_path / "broken.png"
    whole = next(smears.images.iterdir()).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    record = {"file_name": str(broken), "image_id": 1, "annotations": []}
    mapper = trainer_module.SmearMapper.from_config(trainer.cfg, is_train=True)
    trainer.data_loader = ([mapper(r)] for r in [record])
    with pytest.raises(DataError, match=r"broken\.png"):
        run_steps(trainer)
