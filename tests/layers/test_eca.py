import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.eca import efficient_channel_attention
from wbcnets.errors import ConfigError
from wbcnets.layers import EfficientChannelAttention, eca_kernel_size


@pytest.mark.parametrize(
    ("channels", "size"),
    # |log2(C) / 2 + 1 / 2|: 3.5, 4.5, 5, 5.5 and 6, each truncated and made odd
    [(64, 3), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_kernel_sizes_of_the_papers_widths(channels, size):
    assert eca_kernel_size(channels) == size
    assert EfficientChannelAttention(channels).conv.weight.shape == (1, 1, size)


@given(st.integers(min_value=1, max_value=1 << 20))
def test_kernel_size_is_the_nearest_odd_number(channels):
    size = eca_kernel_size(channels)
    assert size % 2 == 1
    assert abs(size - (math.log2(channels) + 1) / 2) <= 1


def test_equals_the_reference():
    layer = EfficientChannelAttention(7, kernel_size=3).double()
    x = torch.randn(2, 7, 3, 4, dtype=torch.float64)
    expected = efficient_channel_attention(x, layer.conv.weight.detach().flatten())
    torch.testing.assert_close(layer(x), expected)


def test_gradients():
    layer = EfficientChannelAttention(5, kernel_size=3).double()
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_keeps_the_inputs_type_and_range(dtype):
    layer = EfficientChannelAttention(8)
    with torch.autocast("cpu", dtype=dtype):
        x = (6e4 * torch.rand(1, 8, 4, 4)).to(dtype)
        weighed = layer(x)
    assert weighed.dtype == dtype
    assert weighed.isfinite().all()


def test_compiles_and_is_made_on_the_meta_device():
    layer = EfficientChannelAttention(16)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(1, 16, 3, 3)
    torch.testing.assert_close(compiled(x), layer(x))
    assert EfficientChannelAttention(16, device="meta").conv.weight.is_meta


def test_bad_sizes_are_errors():
    with pytest.raises(ConfigError, match="kernel_size=4 must be odd"):
        EfficientChannelAttention(8, kernel_size=4)
    with pytest.raises(ConfigError, match="channels must be at least 1"):
        eca_kernel_size(0)
