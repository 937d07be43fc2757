import colorsys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wbcnets.layers import RgbToHsv, WhiteBalance, rgb_to_hsv
from wbcnets.layers.color import BACKGROUND

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


def smear(height=32, width=48):
    """Returns an image (1, 3, H, W) of cells on an empty background."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 0.6
    image[..., :12, :12] = torch.tensor(BACKGROUND).view(1, 3, 1, 1)
    return image


@pytest.mark.parametrize("lamp", [(1.0, 1.0, 1.0), (0.9, 0.8, 0.7), (0.4, 0.5, 0.45)])
def test_takes_out_lamp_and_filter(lamp):
    tinted = smear() * torch.tensor(lamp).view(1, 3, 1, 1)
    torch.testing.assert_close(WhiteBalance()(tinted), smear())


def test_the_background_can_be_chosen():
    balanced = WhiteBalance((0.5, 0.6, 0.7))(smear())
    torch.testing.assert_close(balanced[0, :, 5, 5], torch.tensor([0.5, 0.6, 0.7]))


def test_balanced_images_do_not_change_each_other():
    bright, dark = smear(), smear() * 0.5
    both = WhiteBalance()(torch.cat([bright, dark]))
    torch.testing.assert_close(both[:1], both[1:])


def test_a_hot_pixel_is_no_background():
    image = smear() * 0.5
    image[0, 0, 30, 30] = 1.0
    balanced = WhiteBalance()(image)
    torch.testing.assert_close(balanced[0, 0, :12, :12], torch.ones(12, 12))
    assert balanced.max() <= 1


def test_an_unlit_image_stays_dark_and_finite():
    assert torch.equal(WhiteBalance()(torch.zeros(1, 3, 8, 8)), torch.zeros(1, 3, 8, 8))
    assert WhiteBalance()(torch.full((1, 3, 8, 8), 0.01)).max() < 0.2


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (4, 4), (5, 7)])
def test_white_balance_takes_any_size_and_number_of_channels(size):
    for channels in (1, 3, 4):
        x = torch.rand(2, channels, *size)
        assert WhiteBalance()(x).shape == x.shape


def test_gradients_of_white_balance_are_exact():
    # A background of one value would be at a kink of the maximum
    x = smear(8, 8).double() * 0.9 + torch.linspace(0, 0.05, 64).view(8, 8)
    assert torch.autograd.gradcheck(WhiteBalance(), (x.requires_grad_(),))


def test_white_balance_keeps_half_precision():
    assert WhiteBalance()(smear().bfloat16()).dtype == torch.bfloat16
