import pytest
import torch

from wbcnets.errors import ConfigError
from wbcnets.layers import CrossLayerFusion


def transformed(branch, x):
    """One branch in evaluation mode, pixel by pixel."""
    first, norm, _, second, last_norm = branch
    out = torch.zeros(x.shape[0], second.out_channels, *x.shape[2:], dtype=x.dtype)
    for b in range(x.shape[0]):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                value = first.weight[:, :, 0, 0] @ x[b, :, row, column]
                value = normalized(norm, value).clamp(min=0)
                value = second.weight[:, :, 0, 0] @ value
                out[b, :, row, column] = normalized(last_norm, value)
    return out


def normalized(norm, value):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (value - norm.running_mean) * scale + norm.bias


def fusion(**kwargs):
    layer = CrossLayerFusion(4, **kwargs).double().eval()
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return layer


def test_is_the_product_of_two_transformed_maps():
    layer = fusion(channels=6)
    early, late = torch.randn(2, 2, 4, 3, 2, dtype=torch.float64)
    expected = transformed(layer.early, early) * transformed(layer.late, late)
    torch.testing.assert_close(layer(early, late), expected)


def test_gradients():
    layer = fusion()
    early, late = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (early.requires_grad_(), late.requires_grad_()))


def test_product_starts_with_a_variance_of_one():
    torch.manual_seed(0)
    layer = CrossLayerFusion(256).train()
    early, late = torch.randn(2, 16, 256, 4, 4)
    assert layer(100 * early, late).var().item() == pytest.approx(1, abs=0.1)


def test_half_precision_products_stay_finite():
    layer = CrossLayerFusion(8).eval()
    early, late = 3e4 * torch.rand(2, 1, 8, 2, 2)
    with torch.autocast("cpu", dtype=torch.float16):
        assert layer(early, late).isfinite().all()


def test_maps_of_two_shapes_are_an_error():
    with pytest.raises(ConfigError, match=r"\(1, 4, 2, 2\) and \(1, 4, 1, 1\)"):
        CrossLayerFusion(4)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1))
    with pytest.raises(ConfigError, match="in_channels=0"):
        CrossLayerFusion(0)


def test_meta_device_and_compile():
    assert CrossLayerFusion(4, device="meta").early[0].weight.is_meta
    layer = CrossLayerFusion(4).eval()
    x = torch.randn(1, 4, 2, 2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, x), layer(x, x))
