import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from wbcnets.errors import CheckpointError


def changed(model):
    """The model with other weights, so that loading has something to do."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1) if tensor.is_floating_point() else None
    return model


def same_weights(one, other):
    return all(torch.equal(a, other.state_dict()[k]) for k, a in one.state_dict().items())


def stateful(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def saved_run(tiny_model, folder, iterations=(1, 2, 3)):
    model = tiny_model()
    checkpointer = AtomicCheckpointer(model, str(folder), optimizer=stateful(model))
    for iteration in iterations:
        with torch.no_grad():
            model.detector.query_embed.weight.fill_(iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer


def resume(tiny_model, folder):
    model = tiny_model()
    checkpointer = AtomicCheckpointer(model, str(folder), optimizer=stateful(model))
    extra = checkpointer.resume_or_load("", resume=True)
    return extra["iteration"], model.detector.query_embed.weight[0, 0].item()


def test_resume_takes_the_newest(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert resume(tiny_model, tmp_path) == (3, 3.0)


def test_the_best_is_not_the_newest(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path).save("model_best", iteration=1)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert resume(tiny_model, tmp_path) == (3, 3.0)


def test_resume_passes_over_damaged_files(tiny_model, tmp_path, caplog):
    saved_run(tiny_model, tmp_path)
    newest = tmp_path / "model_0000003.pth"
    newest.write_bytes(newest.read_bytes()[:5000])
    (tmp_path / "model_0000002.pth").write_bytes(b"")
    assert resume(tiny_model, tmp_path) == (1, 1.0)
    assert "model_0000003.pth: damaged" in caplog.text
    assert "model_0000002.pth: the file is empty; trying the one before" in caplog.text


def test_resume_without_any_usable_checkpoint(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path, (1, 2))
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be resumed") as caught:
        resume(tiny_model, tmp_path)
    assert "model_0000001.pth" in str(caught.value)
    assert "model_0000002.pth" in str(caught.value)


def test_resume_in_an_empty_folder_loads_the_weights(tiny_model, tmp_path):
    path = tmp_path / "start.pth"
    torch.save({"model": changed(tiny_model()).state_dict()}, path)
    model = tiny_model()
    extra = AtomicCheckpointer(model, str(tmp_path / "run")).resume_or_load(str(path), resume=True)
    assert "iteration" not in extra
    assert same_weights(model, changed(tiny_model()))


def test_resume_with_another_config_is_refused(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path, (1,))
    model = tiny_model()
    fewer = torch.optim.SGD(list(model.parameters())[:3], lr=0.1, momentum=0.9)
    checkpointer = AtomicCheckpointer(model, str(tmp_path), optimizer=fewer)
    with pytest.raises(CheckpointError, match="its optimizer does not fit this config"):
        checkpointer.resume_or_load("", resume=True)


def test_leftovers_of_a_killed_process_are_removed(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path, (1,))
    (tmp_path / ".model_0000002.pth.ab12cd").write_bytes(b"half")
    assert resume(tiny_model, tmp_path) == (1, 1.0)
    assert not list(tmp_path.glob(".model*"))
