import pytest
import torch
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers import PAFPN


def test_bottom_up_path_follows_its_formula():
    torch.manual_seed(0)
    neck = PAFPN((4, 6), 64)
    maps = [torch.randn(2, 4, 8, 12), torch.randn(2, 6, 4, 6)]

    first, second = neck(maps)

    low, high = neck.fpn(maps)
    below = F.conv2d(low, neck.downsamples[0][0].weight, stride=2, padding=1)
    below = F.group_norm(below, 32).relu()
    expected = F.conv2d(below + high, neck.outputs[0][0].weight, padding=1)
    torch.testing.assert_close(first, low)
    torch.testing.assert_close(second, F.group_norm(expected, 32).relu())


def test_levels_that_are_not_halves_are_resized():
    torch.manual_seed(0)
    outputs = PAFPN((4, 6), 8)([torch.randn(1, 4, 11, 7), torch.randn(1, 6, 4, 5)])
    assert [tuple(output.shape) for output in outputs] == [(1, 8, 11, 7), (1, 8, 4, 5)]


def test_hands_its_interpolation_to_the_fpn():
    assert PAFPN((4, 6), 8, interpolation="bilinear").fpn.interpolation == "bilinear"
    with pytest.raises(ConfigError, match="got 'cubic'"):
        PAFPN((4, 6), 8, interpolation="cubic")
