import pytest
import torch

from wbcnets.layers import WhiteBalance


def smear(height=32, width=48):
    """Returns an image (1, 3, H, W) of cells on a white background."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 0.6
    image[..., :12, :12] = 1.0
    return image


@pytest.mark.parametrize("lamp", [(1.0, 1.0, 1.0), (0.9, 0.8, 0.7), (0.4, 0.5, 0.45)])
def test_takes_out_lamp_and_filter(lamp):
    tinted = smear() * torch.tensor(lamp).view(1, 3, 1, 1)
    torch.testing.assert_close(WhiteBalance()(tinted), smear())


def test_images_do_not_change_each_other():
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
    balanced = WhiteBalance()(torch.zeros(1, 3, 8, 8))
    assert torch.equal(balanced, torch.zeros(1, 3, 8, 8))
    assert WhiteBalance()(torch.full((1, 3, 8, 8), 0.01)).max() < 0.2


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (4, 4), (5, 7)])
def test_any_size_and_number_of_channels(size):
    for channels in (1, 3, 4):
        x = torch.rand(2, channels, *size)
        assert WhiteBalance()(x).shape == x.shape


def test_gradients_are_exact():
    x = smear(8, 8).double().requires_grad_()
    # A background of one value is at a kink of the maximum
    x = (x.detach() * 0.9 + torch.linspace(0, 0.05, 64).view(8, 8)).requires_grad_()
    assert torch.autograd.gradcheck(WhiteBalance(), (x,))


def test_half_precision_keeps_its_type():
    assert WhiteBalance()(smear().bfloat16()).dtype == torch.bfloat16
