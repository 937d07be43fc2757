import logging

import numpy as np
import pytest
import torch
from PIL import Image

from wbcnets.engine.non_finite import BadStepCounter, BufferBackup, is_overflow, save_bad_step


def test_too_many_steps_in_a_row_end_the_run(caplog):
    caplog.set_level(logging.WARNING, "wbcnets")
    counter = BadStepCounter(limit=2)
    counter.add("step 1: loss nan", "lower the rate")
    assert "step 1: loss nan. The step was skipped" in caplog.text
    counter.end_row()
    counter.add("step 3: loss nan", "lower the rate")
    again = BadStepCounter(limit=2)
    again.load_state_dict(counter.state_dict())
    with pytest.raises(FloatingPointError, match=r"bad step 2 in a row .the limit is 2.: lower"):
        again.add("step 4: loss nan", "lower the rate")
    assert (again.total, again.consecutive) == (3, 2)
    with pytest.raises(FloatingPointError, match="bad step 1 in a row"):
        BadStepCounter(limit=5).add("step 1", "stop", stop=True)


def test_a_run_without_one_good_step_learned_nothing():
    counter = BadStepCounter(limit=9)
    counter.check_learned(0, "lower the rate")
    counter.add("step 1: loss nan", "lower the rate")
    with pytest.raises(FloatingPointError, match=r"in all 1 steps: .* learned nothing; lower the"):
        counter.check_learned(1, "lower the rate")
    counter.end_row()
    counter.check_learned(2, "lower the rate")
    counter.load_state_dict({"total": 1, "consecutive": 1})  # as earlier versions wrote it
    counter.check_learned(2, "lower the rate")


def test_only_a_large_scale_makes_gradients_infinite():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(1))  # starts it
    assert is_overflow(scaler)
    scaler.update(0.5)
    assert not is_overflow(scaler)
    assert not is_overflow(torch.amp.GradScaler("cpu", enabled=False))


def test_buffers_are_restored():
    norm = torch.nn.BatchNorm1d(2)
    backup = BufferBackup(norm)
    norm(torch.rand(4, 2))
    backup.keep()
    kept = norm.running_mean.clone()
    norm(torch.full((4, 2), torch.nan))
    assert norm.running_mean.isnan().all()
    backup.restore()
    assert torch.equal(norm.running_mean, kept)


@pytest.mark.parametrize("with_boxes", [False, True])
def test_the_batch_of_a_bad_step_can_be_looked_at(tmp_path, with_boxes):
    images = [torch.full((3, 20, 30), torch.nan), torch.zeros(3, 20, 30, dtype=torch.uint8)]
    files = ["folder/a.png", "b.png"]
    labels = [torch.tensor(1), torch.tensor(0)]
    boxes = None
    if with_boxes:
        labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
        boxes = [torch.tensor([[2.0, 2.0, 12.0, torch.nan]]), torch.zeros(0, 4)]
    path = tmp_path / "new" / "bad_step"
    save_bad_step(path, images, labels, files, ["x", "y"], {"step": 3}, boxes)
    kept = torch.load(tmp_path / "new" / "bad_step.pth", weights_only=True)
    assert (kept["step"], kept["files"], len(kept["images"])) == (3, files, 2)
    assert ("boxes" in kept) == with_boxes
    with Image.open(tmp_path / "new" / "bad_step.png") as picture:
        assert np.asarray(picture).std() > 5
