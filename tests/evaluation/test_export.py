import pytest
import timm
import torch
from safetensors.torch import load_file

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
