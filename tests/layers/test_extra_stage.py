import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers import ExtraStage


def convolutions(stage: nn.Module) -> list[nn.Conv2d]:
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, [2048, 1024, 1024, 4096]),
        ({"in_channels": 256}, [256, 128, 128, 512]),
        ({"in_channels": 64, "mid_channels": 16, "out_channels": 48}, [64, 16, 16, 48]),
    ],
)
def test_widths(options, widths):
    stage = ExtraStage(**options, device="meta")
    found = convolutions(stage)
    assert [found[0].in_channels, *(c.out_channels for c in found)] == widths
    assert [c.kernel_size for c in found] == [(1, 1), (3, 3), (1, 1)]
    assert [c.stride for c in found] == [(1, 1), (2, 2), (1, 1)]
    assert stage.out_channels == widths[-1]


def test_group_counts_adapt_to_narrow_backbones():
    stage = ExtraStage(24, 12, 40)
    groups = [module.num_groups for module in stage.modules() if isinstance(module, nn.GroupNorm)]
    assert groups == [12, 12, 20]
    wide = ExtraStage(device="meta")
    assert {m.num_groups for m in wide.modules() if isinstance(m, nn.GroupNorm)} == {32}


def test_groups_of_one_value_become_the_bias():
    stage = ExtraStage(4, 2, 4, groups=32)
    with torch.no_grad():
        stage.expand[1].bias.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
    values = stage(torch.randn(1, 4, 1, 1)).flatten().tolist()
    assert values == pytest.approx([0, 1, 2, 0], abs=1e-6)


@pytest.mark.parametrize(("size", "halved"), [((8, 6), (4, 3)), ((9, 7), (5, 4)), ((1, 1), (1, 1))])
def test_matches_its_formula_at_any_size(size, halved):
    torch.manual_seed(0)
    stage = ExtraStage(16, 8, 32, groups=4)
    features = torch.randn(2, 16, *size)
    expected = features
    for convolution, padding in zip(convolutions(stage), [0, 1, 0]):
        expected = F.conv2d(expected, convolution.weight, None, convolution.stride, padding)
        expected = F.group_norm(expected, 4).relu()
    output = stage(features)
    assert output.shape == (2, 32, *halved)
    torch.testing.assert_close(output, expected)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    stage = ExtraStage(16)
    output = stage(torch.randn(2, 16, 8, 8))
    (output * torch.randn_like(output)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters())


@pytest.mark.parametrize("options", [{"in_channels": 0}, {"mid_channels": 0}, {"groups": 0}])
def test_refuses_sizes_below_one(options):
    with pytest.raises(ConfigError, match="at least 1"):
        ExtraStage(**{"in_channels": 16, **options})
