import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.evaluation.small_classifier import KWARGS, NAMES, save_run, small_model
from wbcnets.errors import CheckpointError
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.evaluation.export import export_classifier
from wbcnets.io.atomic_files import digest_path, verify_digest


def load_run(model, folder):
    save_run(folder / "best.pth", model)
    return load_classifier(folder / "best.pth", device="cpu")


def test_exported_file_holds_the_model_in_half_precision(tmp_path):
    model, x, path = small_model(), torch.rand(2, 3, 32, 32), tmp_path / "deep" / "x.safetensors"
    export_classifier(load_run(model, tmp_path), path)
    state = load_file(path)
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    assert digest_path(path).is_file()
    verify_digest(path)
    again = timm.create_model(
        "sckansformer_tiny",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        **KWARGS,
        num_classes=3,
    ).eval()
    assert again.load_report.complete
    torch.testing.assert_close(again(x), model(x), rtol=1e-2, atol=1e-2)


def test_the_exported_file_gives_the_classifier_again(tmp_path):
    exported = load_run(small_model(), tmp_path)
    export_classifier(exported, tmp_path / "x.safetensors")
    again = load_classifier(tmp_path / "x.safetensors", device="cpu")
    for name in ("class_names", "image_size", "mean", "std", "preset", "model_args"):
        assert getattr(again, name) == getattr(exported, name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_names", '"abc"', "should be a list of names"),
        ("class_names", '["a", "a", "b"]', "'a' is listed more than once"),
        ("class_names", '["a"', "damaged"),
        ("architecture", '{"name": 5}', "architecture.name=5"),
        (
            "architecture",
            '{"name": "resnet18", "kwargs": {"checkpoint_path": "x"}}',
            "checkpoint_p",
        ),
        ("architecture", "[" * 100_000, "damaged"),
        ("data_config", '{"input_size": [3, 40000, 40000]}', "input_size"),
        ("data_config", "{}", "data_config.mean is missing"),
    ],
)
def test_a_description_that_is_wrong_is_refused(key, value, message, tmp_path):
    path = tmp_path / "x.safetensors"
    export_classifier(load_run(small_model(), tmp_path), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, key: value})
    digest_path(path).unlink()
    with pytest.raises(CheckpointError, match=message):
        load_classifier(path, device="cpu")


def test_weight_that_overflows_is_an_error_and_leaves_no_file(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.cls_token.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*cls_token overflow in .*float16"):
        export_classifier(load_run(model, tmp_path), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_exported_folder_gives_the_classifier_again(tmp_path):
    model, x = small_model(), torch.rand(2, 3, 32, 32)
    exported = load_run(model, tmp_path)
    export_classifier(exported, tmp_path / "folder")
    again = load_classifier(tmp_path / "folder", device="cpu")
    assert torch.equal(again.model(x), model(x))
    assert again.class_names == NAMES
    assert (again.image_size, again.mean, again.std) == (32, exported.mean, exported.std)
    created = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    assert torch.equal(created(x), model(x))
    assert tuple(created.pretrained_cfg["mean"]) == exported.mean
