import os

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.checkpoint.weight_names import translate
from mfds_detr.checkpoint.weights import fit_weights, read_weights
from tests.mfds_detr.conftest import PLUS
from wbcnets.errors import CheckpointError


def changed(model):
    """Changes all weights of a model, so that loading makes a difference."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1) if tensor.is_floating_point() else None
    return model


def save(model, path, **extra):
    torch.save({"model": model.state_dict(), **extra}, path)
    return str(path)


def same_weights(one, other):
    return all(torch.equal(a, other.state_dict()[k]) for k, a in one.state_dict().items())


def test_round_trip(tiny_model, tmp_path):
    model, other = tiny_model(), changed(tiny_model())
    AtomicCheckpointer(model, str(tmp_path), class_names=("a", "b")).save("model_0000001")
    assert not same_weights(model, other)
    extra = AtomicCheckpointer(other).load(str(tmp_path / "model_0000001.pth"))
    assert same_weights(model, other)
    assert tuple(extra["class_names"]) == ("a", "b")


def test_weights_may_be_empty(tiny_model):
    model = tiny_model()
    assert AtomicCheckpointer(model).load("") == {}
    assert same_weights(model, tiny_model())


def test_the_moving_average_is_preferred(tiny_model, tmp_path):
    averaged, model = changed(tiny_model()), tiny_model()
    path = save(model, tmp_path / "model.pth", ema=averaged.state_dict())
    AtomicCheckpointer(model).load(path)
    assert same_weights(model, averaged)


def test_missing_unexpected_and_misshapen_tensors_are_named(tiny_model, tmp_path):
    model = tiny_model()
    state = model.state_dict()
    del state["detector.query_embed.weight"]
    state["detector.other"] = torch.zeros(3)
    state["neck.extra"] = torch.zeros(2)
    state["detector.transformer.level_embed"] = torch.zeros(9, 32)
    before = changed(tiny_model())
    target = changed(tiny_model())
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError) as caught:
        AtomicCheckpointer(target).load(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "does not fit the model (MFDS-DETR names), in 4 tensors" in message
    assert "not in the file: detector.query_embed.weight" in message
    assert "not in the model: detector.other" in message
    assert "not in the model: neck.extra" in message
    assert "level_embed: (9, 32) in the file, (4, 32) in the model" in message
    assert "MODEL.WEIGHTS_PARTIAL True" in message
    assert same_weights(target, before)  # a refused file changes nothing

    report = fit_weights(
        target,
        translate(state, target.backbone.state_dict()),
        "file",
        partial=True,
    )
    assert "Left out as asked: not in the model: detector.other" in report
    assert torch.equal(
        target.neck.state_dict()["outputs.0.0.weight"], state["neck.outputs.0.0.weight"]
    )
    kept = target.detector.transformer.level_embed
    assert torch.equal(kept, before.detector.transformer.level_embed)


def test_other_classes_reinitialize_the_head_only(tiny_model, tmp_path, caplog):
    path = save(tiny_model(), tmp_path / "model.pth")
    other = changed(tiny_model("MODEL.MFDS_DETR.NUM_CLASSES", 3))
    head = other.detector.class_embed[0].weight.clone()
    caplog.set_level("INFO")
    AtomicCheckpointer(other).load(path)
    assert "Re-initialized, the classes differ: detector.class_embed.0.weight" in caplog.text
    assert "Re-initialized, the classes differ: detector.class_embed.1.bias" in caplog.text
    assert torch.equal(other.detector.class_embed[0].weight, head)
    loaded = other.state_dict()["detector.query_embed.weight"]
    assert torch.equal(loaded, tiny_model().state_dict()["detector.query_embed.weight"])


def test_backbone_only_files_say_what_they_lack(tiny_model, tmp_path, caplog):
    state = {
        k[14:]: v for k, v in tiny_model().state_dict().items() if k.startswith("backbone.body.")
    }
    torch.save(state, tmp_path / "resnet.pth")
    model = changed(tiny_model())
    caplog.set_level("INFO")
    AtomicCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    for part in ("detector", "extra_stage", "neck"):
        assert f"Keeps its initialization, such files do not hold it: {part}" in caplog.text
    assert torch.equal(model.backbone.body.conv1.weight, state["conv1.weight"])


def test_a_file_of_something_else_is_refused(tiny_model, tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit the model"):
        AtomicCheckpointer(tiny_model()).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("partial", [False, True])
def test_values_that_are_not_finite_are_refused(tiny_model, tmp_path, partial):
    state = tiny_model().state_dict()
    state["detector.query_embed.weight"] = torch.full((12, 64), float("nan"))
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"not finite: detector\.query_embed\.weight"):
        AtomicCheckpointer(tiny_model(), partial=partial).load(str(tmp_path / "model.pth"))


def test_timm_weights_without_a_network():
    with pytest.raises(CheckpointError, match=r"timm://resnet18: timm could not load"):
        read_weights("timm://resnet18")
    with pytest.raises(CheckpointError, match="timm://resnet1234: timm could not load"):
        read_weights("timm://resnet1234")


def test_a_missing_file_is_named_with_the_shipped_ones(tmp_path):
    with pytest.raises(CheckpointError, match=r"weights\.pth: no such file.*mfds_detr_tiny_bccd"):
        read_weights(tmp_path / "weights.pth")


def test_unknown_shipped_weights():
    with pytest.raises(CheckpointError, match=r"wbcnets://nothing: unknown name; choose from \["):
        read_weights("wbcnets://nothing")


def test_class_heads_follow_the_class_names(tiny_model, tmp_path):
    names = ("a", "b", "c", "d", "e")
    model, other = changed(tiny_model()), tiny_model()
    torch.nn.init.normal_(model.detector.class_embed[0].weight)
    path = save(model, tmp_path / "x.pth", class_names=names)
    AtomicCheckpointer(other, class_names=names[::-1]).load(path)
    given, loaded = (m.detector.class_embed[0].weight for m in (model, other))
    assert torch.equal(loaded, given.flip(0))


def test_the_first_stages_head_stands_for_any_object(tiny_model, tmp_path):
    names = ("a", "b", "c", "d", "e")
    model = changed(tiny_model("MODEL.MFDS_DETR.TWO_STAGE", True))
    other = tiny_model("MODEL.MFDS_DETR.TWO_STAGE", True)
    for head in model.detector.class_embed:
        torch.nn.init.normal_(head.weight)
    path = save(model, tmp_path / "x.pth", class_names=names)
    AtomicCheckpointer(other, class_names=names[::-1]).load(path)
    given, loaded = model.detector.class_embed, other.detector.class_embed
    assert torch.equal(loaded[0].weight, given[0].weight.flip(0))
    assert torch.equal(loaded[-1].weight, given[-1].weight)


def test_as_many_other_classes_reinitialize_the_head(tiny_model, tmp_path, caplog):
    model, other = changed(tiny_model()), tiny_model()
    before = other.detector.class_embed[0].weight.clone()
    path = save(model, tmp_path / "x.pth", class_names=("a", "b", "c", "d", "e"))
    with caplog.at_level("INFO"):
        AtomicCheckpointer(other, class_names=("v", "w", "x", "y", "z")).load(path)
    assert torch.equal(other.detector.class_embed[0].weight, before)
    assert "Re-initialized, the classes differ: detector.class_embed.0.weight" in caplog.text


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


def test_the_pointer_and_the_iteration_decide_not_the_time(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path, (1, 2)).save("model_final", iteration=3)
    for age, name in enumerate(["model_0000001", "model_0000002", "model_final"]):
        os.utime(tmp_path / f"{name}.pth", (2000 - age, 2000 - age))  # as after a copy
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert resume(tiny_model, tmp_path)[0] == 3
    for text in (b"", b"gone.pth", b"../last.pth", b"model_0000002.pth/..", b"\xff\0", b"a\0b"):
        (tmp_path / "last_checkpoint").write_bytes(text)
        assert resume(tiny_model, tmp_path)[0] == 3
    (tmp_path / "last_checkpoint").unlink()
    assert resume(tiny_model, tmp_path)[0] == 3


def test_a_pointer_that_a_person_wrote_is_followed(tiny_model, tmp_path):
    saved_run(tiny_model, tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth\n")
    assert resume(tiny_model, tmp_path) == (2, 2.0)


def test_weights_alone_are_passed_over(tiny_model, tmp_path, caplog):
    saved_run(tiny_model, tmp_path, (1, 2))
    torch.save({"model": tiny_model().state_dict()}, tmp_path / "model_0000002.pth")
    assert resume(tiny_model, tmp_path) == (1, 1.0)
    assert "model_0000002.pth: holds no iteration, optimizer" in caplog.text


def test_a_classifiers_checkpoint_is_named(tiny_model, tmp_path):
    state = {"head.weight": torch.ones(3)}
    torch.save({"state_dict": state, "resume": {"loss": {}}}, tmp_path / "model_0000002.pth")
    with pytest.raises(CheckpointError, match=r"model_0000002\.pth: holds no iteration, optimizer"):
        resume(tiny_model, tmp_path)


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


def test_a_first_stage_with_classes_and_the_labels_of_queries_follow_the_names(
    tiny_model, tmp_path
):
    names = ("a", "b", "c", "d", "e")
    model, other = changed(tiny_model(*PLUS)), tiny_model(*PLUS)
    for head in model.detector.class_embed:
        torch.nn.init.normal_(head.weight)
    path = save(model, tmp_path / "x.pth", class_names=names)
    AtomicCheckpointer(other, class_names=names[::-1]).load(path)
    for given, loaded in zip(model.detector.class_embed, other.detector.class_embed):
        assert torch.equal(loaded.weight, given.weight.flip(0))
    given, loaded = (m.detector.label_embed.weight for m in (model, other))
    assert torch.equal(loaded[:5], given[:5].flip(0))
    assert torch.equal(loaded[5], given[5])


def test_other_classes_reinitialize_the_labels_of_queries(tiny_model, tmp_path, caplog):
    model = changed(tiny_model(*PLUS))
    other = tiny_model(*PLUS, "MODEL.MFDS_DETR.NUM_CLASSES", 3)
    before = other.detector.label_embed.weight.clone()
    path = save(model, tmp_path / "x.pth", class_names=("a", "b", "c", "d", "e"))
    with caplog.at_level("INFO"):
        AtomicCheckpointer(other, class_names=("a", "b", "c")).load(path)
    assert torch.equal(other.detector.label_embed.weight, before)
    assert "Re-initialized, the classes differ: detector.label_embed.weight" in caplog.text
    assert torch.equal(
        other.detector.bbox_embed[0].layers[0].weight, model.detector.bbox_embed[0].layers[0].weight
    )
