import pytest
import torch
from torch import nn

from tests.reference import hs_fpn_reference
from wbcnets.errors import ConfigError
from wbcnets.layers import HSFPN, SelectiveFeatureFusion

SIZES = [(7, 9), (4, 5), (2, 3)]
CHANNELS = (4, 6, 8)


def random_neck(**options) -> HSFPN:
    torch.manual_seed(0)
    neck = HSFPN(CHANNELS, 16, dtype=torch.float64, **options)
    for parameter in neck.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return neck


def random_maps(channels=CHANNELS, sizes=SIZES, batch=2, dtype=torch.float64):
    torch.manual_seed(1)
    return [torch.randn(batch, c, *size, dtype=dtype) for c, size in zip(channels, sizes)]


@pytest.mark.parametrize("cascade", ["fused", "top"])
@pytest.mark.parametrize("upsample", ["tconv+bilinear", "bilinear"])
@pytest.mark.parametrize("groups", [16, 4])
def test_matches_the_reference(cascade, upsample, groups):
    neck = random_neck(cascade=cascade, upsample=upsample)
    for output in neck.outputs:
        output[1].num_groups = groups
    maps = random_maps()
    weights = neck.state_dict()

    outputs = neck(maps)

    for image in range(2):
        expected = hs_fpn_reference.hs_fpn([m[image] for m in maps], weights, groups, cascade)
        for output, reference in zip(outputs, expected):
            assert reference.abs().max() > 0.1
            torch.testing.assert_close(output[image], reference, rtol=1e-10, atol=1e-10)


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    neck = HSFPN((2, 3), 4, dtype=torch.float64)
    maps = [m.requires_grad_() for m in random_maps((2, 3), [(3, 4), (2, 2)], batch=1)]
    assert torch.autograd.gradcheck(lambda *inputs: tuple(neck(inputs)), maps, fast_mode=True)


def test_cascades_differ_only_below_the_second_level():
    fused, top = random_neck(cascade="fused"), random_neck(cascade="top")
    top.load_state_dict(fused.state_dict())
    maps = random_maps()

    finest, middle, coarsest = zip(fused(maps), top(maps))

    assert torch.equal(*coarsest)
    assert torch.equal(*middle)
    assert (finest[0] - finest[1]).abs().max() > 0.01


def test_top_cascade_ignores_the_middle_map_at_the_finest_level():
    for cascade, expected in [("top", False), ("fused", True)]:
        neck = random_neck(cascade=cascade)
        maps = [m.requires_grad_() for m in random_maps()]
        (gradient,) = torch.autograd.grad(neck(maps)[0].sum(), maps[1], allow_unused=True)
        assert (gradient is not None) is expected


def test_bilinear_alone_has_no_transposed_convolution():
    def count(neck: nn.Module) -> int:
        return sum(isinstance(module, nn.ConvTranspose2d) for module in neck.modules())

    assert count(HSFPN(CHANNELS, 16)) == 2
    assert count(HSFPN(CHANNELS, 16, upsample="bilinear")) == 0


def test_fusion_of_a_map_twice_the_size_needs_no_resize():
    fusion = SelectiveFeatureFusion(8)
    low, high = torch.randn(1, 8, 6, 10), torch.randn(1, 8, 3, 5)
    fused, attended = fusion(low, high)
    torch.testing.assert_close(attended, fusion.expand(high))
    torch.testing.assert_close(fused, low * fusion.attention(attended) + attended)


@pytest.mark.skipif(
    not hasattr(torch.export.Dim, "AUTO"), reason="this torch has no automatic export dimensions"
)
def test_exports_with_free_sizes():
    neck = HSFPN((4, 8, 12), 16).eval()
    maps = random_maps((4, 8, 12), [(13, 17), (7, 9), (4, 5)], dtype=torch.float32)
    auto = torch.export.Dim.AUTO
    shapes = ([{0: auto, 2: auto, 3: auto} for _ in maps],)
    program = torch.export.export(neck, (maps,), dynamic_shapes=shapes)
    others = random_maps((4, 8, 12), [(20, 12), (10, 6), (5, 3)], batch=3, dtype=torch.float32)
    for exported, eager in zip(program.module()(others), neck(others)):
        torch.testing.assert_close(exported, eager)


def test_unknown_options_name_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'fused', 'top'.*got 'bottom'"):
        HSFPN(CHANNELS, 16, cascade="bottom")
    with pytest.raises(ConfigError, match=r"'bilinear'.*got 'nearest'"):
        HSFPN(CHANNELS, 16, upsample="nearest")
    with pytest.raises(ConfigError, match="got 'nearest'"):
        SelectiveFeatureFusion(8, upsample="nearest")
