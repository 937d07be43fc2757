import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf

from tests.tools.tool_modules import load_tool
from wbcnets.data.cells.augmentation import create_cell_augmentation
from wbcnets.errors import CheckpointError
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.train.config_file import load_config
from wbcnets.train.model import describe_data

NAMES = ("a", "b", "c")


def small_model():
    return timm.create_model("sckansformer_tiny", **KWARGS, num_classes=3).eval()


KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}


def save_run(path, network, averaged=None, **changes):
    """A checkpoint with what tools/train_classifier.py writes and a user of it needs."""
    checkpoint = {
        "state_dict": network.state_dict(),
        "model": {"name": "sckansformer_tiny", "kwargs": KWARGS, "num_classes": 3},
        "class_names": list(NAMES),
        "data_config": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
    }
    if averaged is not None:
        checkpoint["state_dict_ema"] = averaged.state_dict()
    torch.save({**checkpoint, **changes}, path)


def test_run_gives_its_model_classes_and_preprocessing(tmp_path):
    model = small_model()
    save_run(tmp_path / "best.pth", model)
    classifier = load_classifier(str(tmp_path / "best.pth"))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(classifier.model(x), model(x))
    assert not classifier.model.training
    assert classifier.class_names == NAMES
    assert (classifier.image_size, classifier.mean) == (32, (0.1, 0.2, 0.3))
    image = torch.zeros(50, 40, 3, dtype=torch.uint8).numpy()
    assert classifier.preprocessing()(image, seed=0).shape == (32, 32, 3)


def test_averaged_weights_are_the_ones_that_are_used(tmp_path):
    averaged = small_model()
    save_run(tmp_path / "best.pth", small_model(), averaged)
    classifier = load_classifier(str(tmp_path / "best.pth"))
    assert torch.equal(classifier.model.cls_token, averaged.cls_token)


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_saved_folder(prefix, tmp_path):
    model = small_model()
    config = {"label_names": list(NAMES), "pretrained_cfg": {"label_names": list(NAMES)}}
    save_for_hf(
        model,
        tmp_path / "folder",
        model_config=config,
        model_args=KWARGS,
        safe_serialization=True,
        data_config={"input_size": (3, 32, 32)},
    )
    classifier = load_classifier(f"{prefix}{tmp_path / 'folder'}")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(classifier.model(x), model(x))
    assert classifier.class_names == NAMES


def test_weights_without_classes_are_an_error(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"plain\.pth: .* of which model and classes"):
        load_classifier(str(tmp_path / "plain.pth"))


def test_unknown_names_are_errors():
    with pytest.raises(CheckpointError, match="no_such_model"):
        load_classifier("no_such_model")


def test_exported_file_and_folder_hold_the_model(tmp_path):
    model = small_model()
    save_run(tmp_path / "best.pth", model)
    tool = load_tool("export_classifier")
    source, x = str(tmp_path / "best.pth"), torch.rand(2, 3, 32, 32)
    assert tool.main(["--weights", source, "--output", str(tmp_path / "x.safetensors")]) == 0
    state = load_file(tmp_path / "x.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    overlay = {"file": str(tmp_path / "x.safetensors")}
    again = timm.create_model(
        "sckansformer_tiny",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        **KWARGS,
        num_classes=3,
    ).eval()
    assert again.load_report.complete
    torch.testing.assert_close(again(x), model(x), rtol=1e-2, atol=1e-2)


def test_damaged_run_is_an_error_that_names_it(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"best\.pth"):
        load_classifier(str(tmp_path / "best.pth"))


def test_images_are_brought_to_size_as_in_the_runs_own_evaluation(tmp_path):
    config = load_config("", ["data.val_augmentation=sckansformer_eval", "data.image_size=32"])
    model = small_model()
    save_run(tmp_path / "best.pth", model, data_config=describe_data(config, model))
    classifier = load_classifier(str(tmp_path / "best.pth"))
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    expected = create_cell_augmentation("sckansformer_eval", 32)(image, seed=0)
    assert np.array_equal(classifier.preprocessing()(image, seed=0), expected)
    plain = create_cell_augmentation("none", 32)(image, seed=0)
    assert not np.array_equal(expected, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "b"]}, r"best\.pth: does not fit sckansformer_tiny"),
        ({"model": {"name": "no_such_model"}}, "of a model 'no_such_model'"),
        (
            {"model": {"name": "sckansformer_tiny", "kwargs": {"nonsense": 1}}},
            r"best\.pth: does not fit sckansformer_tiny: .*nonsense",
        ),
        ({"data_config": {"mean": [0, 0, 0]}}, "has no input_size, std"),
    ],
)
def test_run_that_does_not_fit_itself_is_an_error(changes, message, tmp_path):
    save_run(tmp_path / "best.pth", small_model(), **changes)
    with pytest.raises(CheckpointError, match=message):
        load_classifier(str(tmp_path / "best.pth"))


def test_weights_of_imagenet_are_refused_before_they_are_fetched(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("weights were fetched"))
    with pytest.raises(CheckpointError, match="resnet18: its configuration has no label_names"):
        load_classifier("resnet18")


def test_missing_file_is_called_a_missing_file():
    with pytest.raises(CheckpointError, match=r"runs/x/best\.pth: no such file"):
        load_classifier("runs/x/best.pth")
