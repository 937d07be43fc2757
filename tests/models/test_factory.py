"""Weights from files, with other classes, channels and sizes, and their load reports."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file

import wbcnets
from wbcnets.errors import CheckpointError
from wbcnets.models.factory import read_pretrained
from wbcnets.models.sckansformer import checkpoint_filter_fn

NAMES = wbcnets.list_models()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def saved(model, path):
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return {"file": str(path)}


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("resnext_cc_26")])
def test_without_a_network_the_error_says_how_to_pass_a_file(name):
    with pytest.raises(CheckpointError, match=r"pretrained_cfg_overlay=dict\(file="):
        timm.create_model(name, pretrained=True)


def test_own_weights_come_back_whole(name, small, make_images, tmp_path):
    model, x = small(name), make_images(name)
    overlay = saved(model, tmp_path / "model.safetensors")
    torch.manual_seed(9)
    again = small(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(again(x), model(x))
    assert again.load_report.complete
    assert again.load_report.adapted == ()
    assert "state_dict" not in again.pretrained_cfg


def test_other_classes_leave_the_head_out(name, small, tmp_path):
    model = small(name)
    overlay = saved(model, tmp_path / "model.safetensors")
    other = small(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    head = model.default_cfg["classifier"]
    assert other.load_report.kept
    assert all(key.startswith(head) for key in other.load_report.kept)
    assert all(key.startswith(head) for key in other.load_report.unused)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels_adapt_the_first_convolution(name, in_chans, small, tmp_path):
    model = small(name)
    overlay = saved(model, tmp_path / "model.safetensors")
    other = small(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=in_chans)
    first = f"{model.default_cfg['first_conv']}.weight"
    assert other.load_report.adapted == (first,)
    expected = timm.models.adapt_input_conv(in_chans, model.state_dict()[first])
    torch.testing.assert_close(other.state_dict()[first], expected)


def test_features_only_loads_too(name, small, make_images, tmp_path):
    model, x = small(name), make_images(name)
    overlay = saved(model, tmp_path / "model.safetensors")
    torch.manual_seed(9)
    backbone = small(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    torch.testing.assert_close(backbone(x), model.forward_intermediates(x)[1])
    assert backbone.load_report.complete


@pytest.mark.parametrize("name", [n for n in NAMES if "vit_" in n or "sckan" in n])
def test_position_embedding_is_resampled_for_other_sizes(name, small, make_images, tmp_path):
    options = {"position_embedding": "last"} if name.startswith("conv") else {}
    model = small(name, **options)
    overlay = saved(model, tmp_path / "model.safetensors")
    side = 2 * make_images(name).shape[-1]
    other = small(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=side, **options)
    assert len(other.load_report.adapted) == 1
    assert not other.load_report.kept
    model.set_input_size((side, side))
    x = torch.rand(1, 3, side, side)
    torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-5)


def test_averaged_weights_are_preferred(small, make_images, tmp_path):
    name = "sckansformer_tiny"
    model, x = small(name), make_images(name)
    averaged = {key: value.clone() for key, value in model.state_dict().items()}
    averaged["cls_token"] += 1
    file = tmp_path / "last.pth.tar"
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged, "epoch": 3}, file)
    again = small(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    assert torch.equal(again.cls_token, averaged["cls_token"])
    assert not torch.equal(again(x), model(x))


def test_another_width_is_an_error_that_names_the_tensors(small, tmp_path):
    overlay = saved(small("sparse_vit_tiny_patch16"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.norm1\.weight: \(48,\) for \(96,\)"):
        small(
            "sparse_vit_tiny_patch16",
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            embed_dim=96,
        )


def test_weights_of_another_model_are_an_error(small, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"conv_stem.weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"conv_stem\.weight"):
        small("resnext_cc_50", pretrained=True, pretrained_cfg_overlay={"file": str(file)})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"<!doctype html>", "web page"), (b"PK\x03\x04 cut off", "damaged")],
)
def test_damaged_files_are_errors_that_name_them(content, message, small, tmp_path):
    file = tmp_path / "broken.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"broken\.pth: .*{message}"):
        small("resnext_cc_50", pretrained=True, pretrained_cfg_overlay={"file": str(file)})


def test_missing_file_is_an_error_that_names_it(small):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        small("resnext_cc_50", pretrained=True, pretrained_cfg_overlay={"file": "nowhere.pth"})


def test_report_is_logged(small, tmp_path, caplog):
    name = "sparse_vit_tiny_patch16"
    overlay = saved(small(name), tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, logger="wbcnets"):
        small(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=2)
    assert "2 kept at their initialization: head.weight, head.bias" in caplog.text


def test_weights_may_be_given_as_a_state_dict(small):
    name = "sparse_vit_tiny_patch16"
    state = small(name).state_dict()
    torch.manual_seed(9)
    again = small(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    assert again.load_report.complete
    assert torch.equal(again.pos_embed, state["pos_embed"])


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"file": "empty", "source": "local-dir"}, "empty: there is no weight file"),
        ({"architecture": "unknown_net"}, "no pretrained weights of unknown_net"),
    ],
)
def test_configurations_without_weights_are_errors(cfg, message):
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(cfg)


def test_a_checkpoint_filter_only_translates(small):
    model = small("sckansformer_tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    checkpoint_filter_fn(state, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
