import pytest
import torch
from torch import nn

from wbcnets.ops.autocast import AutocastSafeConv2d, autocast_off, is_autocast_on


def test_autocast_is_turned_off_inside():
    x = torch.ones(1)
    assert not is_autocast_on(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_autocast_on(x)
        with autocast_off(x):
            assert not is_autocast_on(x)


def test_meta_tensors_have_no_autocast():
    x = torch.ones(1, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16), autocast_off(x):
        assert not is_autocast_on(x)


def test_without_autocast_it_is_a_convolution():
    conv = AutocastSafeConv2d(3, 4, 3, padding=1)
    plain = nn.Conv2d(3, 4, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    x = 1e6 * torch.randn(1, 3, 5, 5)
    assert torch.equal(conv(x), plain(x))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e8])
def test_large_inputs_stay_finite_under_float16(scale):
    torch.manual_seed(0)
    conv = AutocastSafeConv2d(64, 4, 1, bias=False)
    x = scale * torch.randn(1, 64, 5, 5)
    expected = conv(x)
    with torch.autocast("cpu", dtype=torch.float16):
        out = conv(x)
    assert out.dtype == (torch.float32)
    assert (out - expected).abs().max() <= 0.01 * expected.abs().max()
