import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.utils.events import EventStorage
from PIL import Image

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine.hooks import BestCheckpointer, draw_curves, draw_predictions
from wbcnets.engine.non_finite import BadStepCounter
from wbcnets.io.checkpoints import read_checkpoint


def best_checkpointer(model, folder):
    steps = BadStepCounter(limit=1)
    steps.end_row()
    hook = BestCheckpointer(AtomicCheckpointer(model, str(folder)), steps)
    hook.trainer = SimpleNamespace(iter=0, storage=None)
    return hook


def report(hook, iteration, *scores):
    """An evaluation after an iteration, as Detectron2's hook records it."""
    with EventStorage(iteration) as storage:
        for index, score in enumerate(scores):
            storage.put_scalar(f"set{index}/bbox/AP", score, smoothing_hint=False)
            storage.put_scalar(f"set{index}/bbox/AP50", 99.0, smoothing_hint=False)
        hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
        hook.after_step()


def test_weights_that_no_step_changed_are_not_the_best(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    hook.steps = BadStepCounter(limit=1)
    report(hook, 10, 30.0)
    assert not (tmp_path / "model_best.pth").exists()


def test_the_best_is_kept(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    path = tmp_path / "model_best.pth"
    report(hook, 5)  # nothing evaluated
    assert not path.exists()
    report(hook, 10, 30.0)
    assert read_checkpoint(path)["iteration"] == 10
    report(hook, 20, 29.0)
    assert read_checkpoint(path)["iteration"] == 10
    report(hook, 30, 31.0)
    assert read_checkpoint(path)["iteration"] == 30


def test_several_test_sets_count_by_their_mean(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    report(hook, 10, 30.0, 50.0)
    report(hook, 20, 60.0, 10.0)
    assert hook.best == 40.0
    assert hook.best_iteration == 10


def test_no_number_is_not_the_best(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    report(hook, 10, float("nan"))
    assert not (tmp_path / "model_best.pth").exists()
    report(hook, 20, float("nan"), 3.0)
    assert hook.best == 3.0
    report(hook, 30, float("nan"), 2.0)
    assert (hook.best, hook.best_iteration) == (3.0, 20)


def test_an_old_evaluation_does_not_count_again(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    with EventStorage(10) as storage:
        storage.put_scalar("set/bbox/AP", 30.0)
        hook.trainer = SimpleNamespace(iter=11, storage=storage)
        hook.after_step()
    assert hook.best_iteration == -1


def test_the_best_survives_a_restart(tiny_model, tmp_path):
    hook = best_checkpointer(tiny_model(), tmp_path)
    report(hook, 10, 30.0)
    again = best_checkpointer(tiny_model(), tmp_path)
    again.load_state_dict(hook.state_dict())
    report(again, 20, 29.0)
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 10
    assert "best" in again.checkpointer.checkpointables


def test_curves(tmp_path):
    rows = [
        {"iteration": i, "total_loss": 9.0 / (i + 1), "loss_class": 1.0, "set/bbox/AP": 2.0 * i}
        for i in range(5)
    ]
    metrics = tmp_path / "metrics.json"
    metrics.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    draw_curves(metrics, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
    draw_curves(tmp_path / "nothing.json", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    metrics.write_text("")
    draw_curves(metrics, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


def test_predictions_are_drawn(tiny_config, tiny_model, smears, tmp_path):
    source = DatasetSource("drawn", smears.json_file, smears.images)
    register_datasets([], ["drawn"], [source], tmp_path)
    model = tiny_model().train()
    for count in (0, 1, 4):
        path = tmp_path / f"predictions{count}.png"
        cfg = tiny_config("TEST.SAMPLE_PICTURES", count)
        draw_predictions(cfg, model, "drawn", path, threshold=0.0)
        assert path.exists() == (count > 0)
        if count:
            with Image.open(path) as picture:
                assert np.asarray(picture).std() > 5
    assert model.training
