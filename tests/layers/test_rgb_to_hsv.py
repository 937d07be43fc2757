import colorsys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wbcnets.layers import RgbToHsv, rgb_to_hsv

channel = st.floats(min_value=0.0, max_value=1.0)
rounded_channel = channel.map(lambda value: round(value, 12))


def pixel(red, green, blue, dtype=torch.float64):
    return torch.tensor([red, green, blue], dtype=dtype).view(1, 3, 1, 1)


@given(rounded_channel, rounded_channel, rounded_channel)
def test_equals_the_standard_library(red, green, blue):
    hsv = rgb_to_hsv(pixel(red, green, blue)).flatten()
    expected = torch.tensor(colorsys.rgb_to_hsv(red, green, blue), dtype=torch.float64)
    # Hue is an angle: 0 and 1 are one color
    difference = (hsv - expected).abs()
    difference[0] = min(difference[0], 1 - difference[0])
    assert difference.max() < 1e-12


@pytest.mark.parametrize(
    ("rgb", "hsv"),
    [
        ((1, 0, 0), (0, 1, 1)),
        ((1, 1, 0), (1 / 6, 1, 1)),
        ((0, 1, 0), (1 / 3, 1, 1)),
        ((0, 0, 1), (2 / 3, 1, 1)),
        ((0.5, 0, 0.5), (5 / 6, 1, 0.5)),
        ((0.5, 0.5, 0.5), (0, 0, 0.5)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_named_colors(rgb, hsv):
    expected = torch.tensor(hsv, dtype=torch.float64)
    torch.testing.assert_close(rgb_to_hsv(pixel(*map(float, rgb))).flatten(), expected)


def test_gradients_where_hsv_is_differentiable():
    rgb = torch.tensor([[0.7, 0.2, 0.4], [0.1, 0.8, 0.3], [0.2, 0.3, 0.9]], dtype=torch.float64)
    x = rgb.view(3, 3, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_hsv, (x,))


@given(channel, channel, channel, st.booleans())
def test_gradients_are_finite_everywhere(red, green, blue, gray):
    x = pixel(red, red if gray else green, red if gray else blue, torch.float32).requires_grad_()
    rgb_to_hsv(x).sum().backward()
    assert not x.grad.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_half_precision_and_any_scale_stay_finite(dtype, scale):
    x = (scale * torch.randn(2, 3, 8, 8)).to(dtype)
    hsv = rgb_to_hsv(x)
    assert hsv.dtype == dtype
    assert hsv.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_only_the_first_three_channels_of_three_or_more_change(channels):
    x = torch.rand(2, channels, 4, 4)
    out = RgbToHsv()(x)
    assert out.shape == x.shape
    if channels < 3:
        assert torch.equal(out, x)
    else:
        assert torch.equal(out[:, :3], rgb_to_hsv(x[:, :3]))
        assert torch.equal(out[:, 3:], x[:, 3:])


def test_compiles_as_one_graph():
    x = torch.rand(1, 3, 4, 4)
    compiled = torch.compile(RgbToHsv(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), rgb_to_hsv(x))
