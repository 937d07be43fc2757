import pytest
import torch
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers import ChannelMapper
from wbcnets.layers.necks.base import PyramidNeck, group_norm


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (32, 32), (48, 24), (80, 20), (100, 25), (37, 1), (3, 3)]
)
def test_group_norm_takes_the_largest_divisor_up_to_32(channels, groups):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.num_channels) == (groups, channels)


def test_group_norm_refuses_nothing():
    with pytest.raises(ConfigError, match="channels=0"):
        group_norm(0)


def test_is_deformable_detrs_projection_and_extra_levels():
    torch.manual_seed(0)
    mapper = ChannelMapper((4, 8), 64, num_extra_levels=2)
    maps = [torch.randn(2, 4, 13, 17), torch.randn(2, 8, 7, 9)]

    outputs = mapper(maps)

    layers = [*mapper.projections, *mapper.extra_levels]
    inputs = [maps[0], maps[1], maps[1], outputs[2]]
    for level, (layer, feature, output) in enumerate(zip(layers, inputs, outputs, strict=True)):
        stride, padding = (2, 1) if level > 1 else (1, 0)
        convolution, norm = layer
        expected = F.conv2d(feature, convolution.weight, convolution.bias, stride, padding)
        expected = F.group_norm(expected, 32, norm.weight, norm.bias)
        torch.testing.assert_close(output, expected)
    assert [tuple(output.shape[-2:]) for output in outputs] == [(13, 17), (7, 9), (4, 5), (2, 3)]
    assert mapper.num_levels == 4


def test_initialization_is_xavier_with_gain_1_and_zero_bias():
    convolution = ChannelMapper((512,), 256).projections[0][0]
    bound = (6 / (512 + 256)) ** 0.5
    assert 0.99 * bound < convolution.weight.abs().max() <= bound
    assert convolution.bias.abs().max() == 0


def test_negative_extra_levels_are_refused():
    with pytest.raises(ConfigError, match="got -1"):
        ChannelMapper((4,), 8, num_extra_levels=-1)


def test_base_class_says_that_it_has_no_forward():
    with pytest.raises(NotImplementedError, match="PyramidNeck"):
        PyramidNeck((4,), 8)([torch.zeros(1, 4, 2, 2)])
