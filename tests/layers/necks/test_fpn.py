import pytest
import torch

from wbcnets.errors import ConfigError
from wbcnets.layers import FPN


def test_nearest_addition_repeats_the_pixels_of_the_level_above():
    torch.manual_seed(0)
    neck = FPN((4, 6, 8), 16)
    maps = [torch.randn(2, 4, 8, 12), torch.randn(2, 6, 4, 6), torch.randn(2, 8, 2, 3)]

    outputs = neck(maps)

    fused = [lateral(m) for lateral, m in zip(neck.laterals, maps)]
    fused[1] = fused[1] + fused[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    fused[0] = fused[0] + fused[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    for output, convolution, expected in zip(outputs, neck.outputs, fused):
        torch.testing.assert_close(output, convolution(expected))


def test_bilinear_addition_interpolates():
    torch.manual_seed(0)
    nearest, bilinear = FPN((4, 4), 8), FPN((4, 4), 8, interpolation="bilinear")
    bilinear.load_state_dict(nearest.state_dict())
    maps = [torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)]
    assert (nearest(maps)[0] - bilinear(maps)[0]).abs().max() > 0.01
    # On a map whose upper level is constant, the two are the same.
    maps[1] = torch.zeros(1, 4, 3, 3)
    torch.testing.assert_close(nearest(maps)[0], bilinear(maps)[0])


def test_unknown_interpolation_names_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'nearest', 'bilinear'.*got 'cubic'"):
        FPN((4,), 8, interpolation="cubic")
