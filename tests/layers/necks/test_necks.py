import pytest
import torch

from wbcnets.errors import ConfigError
from wbcnets.layers import FPN, HSFPN, create_neck, neck_names, necks
from wbcnets.layers.necks import register_neck

CHANNELS = (8, 16, 32, 64)
SIZES = [(25, 33), (13, 17), (7, 9), (4, 5)]
NAMES = neck_names()


def random_maps(sizes=SIZES):
    torch.manual_seed(0)
    return [torch.randn(2, c, *size) for c, size in zip(CHANNELS, sizes)]


def random_neck(name, channels=CHANNELS, **options):
    torch.manual_seed(1)
    return create_neck(name, channels, 32, **options)


def test_names():
    assert NAMES == [
        "bifpn",
        "channel_mapper",
        "fapn",
        "fpn",
        "hs_fpn",
        "hs_fpn_bilinear",
        "hs_fpn_top",
        "pafpn",
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_keeps_every_levels_size(name, num_levels):
    neck = random_neck(name, CHANNELS[:num_levels])
    outputs = neck(random_maps()[:num_levels])
    assert [tuple(o.shape) for o in outputs] == [(2, 32, *size) for size in SIZES[:num_levels]]
    assert neck.num_levels == num_levels
    assert all(torch.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_need_not_be_halves(name):
    sizes = [(11, 20), (9, 6), (2, 5), (2, 1)]
    outputs = random_neck(name)(random_maps(sizes=sizes))
    assert [tuple(output.shape[-2:]) for output in outputs] == sizes


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_and_input_gets_a_gradient(name):
    neck = random_neck(name)
    maps = [entry.requires_grad_() for entry in random_maps()]
    sum((output * torch.randn_like(output)).sum() for output in neck(maps)).backward()
    tensors = [*neck.named_parameters(), *((f"map {i}", m) for i, m in enumerate(maps))]
    without = [key for key, t in tensors if t.grad is None or t.grad.abs().sum() == 0]
    assert without == []
    assert all(torch.isfinite(tensor.grad).all() for _, tensor in tensors)


@pytest.mark.parametrize(
    ("name", "downwards", "upwards"),
    [
        ("bifpn", True, True),
        ("channel_mapper", False, False),
        ("fapn", True, False),
        ("fpn", True, False),
        ("hs_fpn", True, False),
        ("hs_fpn_bilinear", True, False),
        ("hs_fpn_top", True, False),
        ("pafpn", True, True),
    ],
)
def test_which_way_information_flows(name, downwards, upwards):
    neck = random_neck(name)
    maps = random_maps()
    before = neck(maps)
    other_top = neck([*maps[:-1], -maps[-1]])
    other_bottom = neck([-maps[0], *maps[1:]])
    assert (not torch.equal(before[0], other_top[0])) is downwards
    assert (not torch.equal(before[-1], other_bottom[-1])) is upwards


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_do_not_mix(name):
    neck, maps = random_neck(name), random_maps()
    for whole, alone in zip(neck(maps), neck([entry[1:] for entry in maps])):
        torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_to_bfloat16_stays_close(name):
    neck, maps = random_neck(name), random_maps()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = neck(maps)
        loss = sum(output.float().square().sum() for output in outputs)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in neck.parameters())
    for output, reference in zip(outputs, neck(maps)):
        assert (output.float() - reference).abs().mean() < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_the_meta_device_at_the_papers_width(name):
    channels = (512, 1024, 2048, 4096)
    neck = create_neck(name, channels, device="meta")
    outputs = neck(
        [torch.empty(2, c, 64 >> i, 80 >> i, device="meta") for i, c in enumerate(channels)]
    )
    assert [tuple(o.shape) for o in outputs] == [(2, 256, 64 >> i, 80 >> i) for i in range(4)]


@pytest.mark.parametrize("name", ["hs_fpn", "fapn"])
def test_compiles_without_a_graph_break(name):
    neck, maps = random_neck(name, CHANNELS[:2]), random_maps()[:2]
    compiled = torch.compile(neck, fullgraph=True, backend="aot_eager")
    for output, reference in zip(compiled(maps), neck(maps)):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_maps_get_a_clear_error(name):
    neck, maps = random_neck(name), random_maps()
    with pytest.raises(ValueError, match=r"takes 4 maps .*\(8, 16, 32, 64\).* got 3 of shapes"):
        neck(maps[:3])
    with pytest.raises(ValueError, match=r"highest resolution first; got 4 .*\(2, 64, 4, 5\), \(2"):
        neck(maps[::-1])
    with pytest.raises(ValueError, match=r"\(8, 25, 33\)"):
        neck([maps[0][0], *maps[1:]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "width"), [((), 32), ((8, 0), 32), ((8,), 0)])
def test_impossible_widths_are_refused(name, channels, width):
    with pytest.raises(ConfigError, match="positive number"):
        create_neck(name, channels, width)


@pytest.mark.parametrize("name", NAMES)
def test_widths_without_a_factor_of_32(name):
    outputs = create_neck(name, CHANNELS, 20)(random_maps())
    assert {output.shape[1] for output in outputs} == {20}


def test_presets_reach_the_class():
    assert random_neck("hs_fpn_top").cascade == "top"
    assert random_neck("hs_fpn", cascade="top", reduction=2).cascade == "top"
    keys = random_neck("hs_fpn_bilinear").state_dict().keys()
    assert keys == HSFPN(CHANNELS, 32, upsample="bilinear").state_dict().keys()


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ConfigError) as error:
        create_neck("hsfpn", CHANNELS)
    assert "'hsfpn'" in str(error.value)
    assert all(name in str(error.value) for name in NAMES)


def test_unknown_options_list_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'fpn' has no option cascade, ratio; .*interpolation"):
        create_neck("fpn", CHANNELS, ratio=2, cascade="top")
    with pytest.raises(ConfigError, match="'hs_fpn_top' has no option cascade; it takes"):
        create_neck("hs_fpn_top", CHANNELS, cascade="fused")


def test_a_registered_neck_is_built_by_name(monkeypatch):
    monkeypatch.setattr(necks, "_NECKS", dict(necks._NECKS))

    @register_neck("copy_of_fpn")
    class Copy(FPN):
        """FPN under another name."""

    assert type(create_neck("copy_of_fpn", [8, 16], 32)) is Copy
    assert "copy_of_fpn" in neck_names()
    with pytest.raises(ConfigError, match="'copy_of_fpn' is registered already"):
        register_neck("copy_of_fpn")(Copy)
