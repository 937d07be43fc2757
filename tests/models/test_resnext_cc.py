import pytest
import timm
import torch

from wbcnets.errors import ConfigError
from wbcnets.layers import rgb_to_hsv
from wbcnets.layers.color import BACKGROUND

PLAIN = {"color_space": "rgb", "strided_stem": False, "eca": False, "fusion": "none"}


@pytest.mark.parametrize(
    ("name", "peer"),
    [("resnext_cc_50", "resnext50_32x4d"), ("resnext_cc_101", "resnext101_32x4d")],
)
def test_with_everything_off_it_is_timms_resnext(name, peer):
    theirs = timm.create_model(peer, num_classes=9)
    for parameter in theirs.parameters():
        if not parameter.any():
            torch.nn.init.uniform_(parameter)
    ours = timm.create_model(name, num_classes=9, **PLAIN)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_weights_of_timms_resnext_load(tmp_path):
    theirs = timm.create_model("resnext50_32x4d", num_classes=1000)
    torch.save(theirs.state_dict(), tmp_path / "resnext.pth")
    overlay = {"file": str(tmp_path / "resnext.pth")}
    ours = timm.create_model("resnext_cc_50", pretrained=True, pretrained_cfg_overlay=overlay)
    assert set(ours.load_report.taken) == set(theirs.state_dict())
    assert ours.load_report.unused == ()
    kept = {name.split(".")[0] for name in ours.load_report.kept}
    assert kept == {"maxpool", "attention", "fusion"}
    assert torch.equal(ours.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)


def test_strided_stem_starts_as_every_second_pixel(small):
    model = small("resnext_cc_50")
    convolution = model.maxpool[0]
    x = torch.rand(1, 64, 8, 8)
    assert torch.equal(convolution(x), x[:, :, ::2, ::2])


def test_images_are_seen_in_hsv(small, make_images):
    x = make_images("resnext_cc_50")
    hsv = small("resnext_cc_50", features_only=True, out_indices=[0])
    rgb = small("resnext_cc_50", features_only=True, out_indices=[0], color_space="rgb")
    torch.testing.assert_close(hsv(x), rgb(rgb_to_hsv(x)))
    assert not torch.allclose(hsv(x)[0], rgb(x)[0])


def test_white_balance_takes_the_lamp_out_of_what_the_stem_sees(small, make_images):
    x = make_images("resnext_cc_26")
    x[:, :, :8, :8] = torch.tensor(BACKGROUND).view(1, 3, 1, 1)
    lamp = torch.tensor([0.9, 0.7, 0.8]).view(1, 3, 1, 1)
    stem = {"features_only": True, "out_indices": [0]}
    balanced = small("resnext_cc_26", white_balance=True, **stem)
    torch.testing.assert_close(balanced(x * lamp), balanced(x))
    plain = small("resnext_cc_26", **stem)
    assert not torch.allclose(plain(x * lamp)[0], plain(x)[0])


@pytest.mark.parametrize(("fusion", "early"), [("conv5_1+conv5_3", 0), ("conv5_2+conv5_3", 1)])
def test_fused_map_is_made_of_the_named_blocks(fusion, early, small, make_images):
    model, x = small("resnext_cc_50", fusion=fusion), make_images("resnext_cc_50")
    maps = {}
    for place, block in enumerate(model.layer4):
        block.register_forward_hook(lambda _, __, out, place=place: maps.update({place: out}))
    fused = model.forward_features(x)
    first = model.attention["layer4"](maps[0]) if early == 0 else maps[early]
    torch.testing.assert_close(fused, model.fusion(first, maps[len(model.layer4) - 1]))
    final, intermediates = model.forward_intermediates(x)
    torch.testing.assert_close(final, fused)
    torch.testing.assert_close(intermediates[-1], maps[len(model.layer4) - 1])


def test_attention_follows_every_down_sampling(small, make_images):
    model, x = small("resnext_cc_50"), make_images("resnext_cc_50")
    sides = {}
    for name, layer in model.attention.items():
        layer.register_forward_hook(lambda _, __, out, name=name: sides.update({name: out.shape}))
    model(x)
    assert {name: shape[-1] for name, shape in sides.items()} == {
        "stem": x.shape[-1] // 4,
        "layer2": x.shape[-1] // 8,
        "layer3": x.shape[-1] // 16,
        "layer4": x.shape[-1] // 32,
    }


def test_pruned_stem_keeps_nothing_else(small, make_images):
    model, x = small("resnext_cc_50"), make_images("resnext_cc_50")
    model.prune_intermediate_layers([0])
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"conv1", "bn1"}
    assert model.forward_intermediates(x, [0], intermediates_only=True)[0].shape[1] == 64
    assert model.num_features == 64


def test_pruned_last_level_keeps_attention(small, make_images):
    model, x = small("resnext_cc_50"), make_images("resnext_cc_50")
    expected = model.forward_intermediates(x, [4], intermediates_only=True)
    model.prune_intermediate_layers([4])
    torch.testing.assert_close(
        model.forward_intermediates(x, [4], intermediates_only=True), expected
    )
    assert not any(name.startswith("fusion") for name, _ in model.named_parameters())


def test_checkpointing_shows_batch_norm_each_batch_once(small, make_images):
    x = make_images("resnext_cc_50")
    averages = []
    for enable in (False, True):
        model = small("resnext_cc_50").train()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        averages.append({name: buffer.clone() for name, buffer in model.named_buffers()})
    torch.testing.assert_close(averages[1], averages[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_space": "lab"}, "color_space='lab'"),
        ({"fusion": "conv4+conv5"}, "fusion='conv4"),
        ({"layers": (1, 1, 1)}, "four numbers"),
        ({"layers": (1, 1, 1, 1)}, "at least 2 blocks"),
    ],
)
def test_bad_options_are_errors(options, message, small):
    with pytest.raises(ConfigError, match=message):
        small("resnext_cc_50", **options)
