"""KAN layers with large splines, for the tests of the layer and of its grid."""

import torch

from wbcnets.layers.kan import KANLinear


def random_rows(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer_with_large_splines(*arguments, dtype=torch.float64, **keywords):
    """Initial coefficients are so small that they would hide a fault in the spline branch."""
    torch.manual_seed(0)
    layer = KANLinear(*arguments, dtype=dtype, **keywords)
    with torch.no_grad():
        layer.spline_weight.normal_()
    return layer


def uneven_layer(*arguments, dtype=torch.float64, **keywords):
    layer = layer_with_large_splines(*arguments, dtype=dtype, **keywords)
    layer.update_grid(random_rows(40, layer.in_features, seed=3, dtype=dtype), grid_eps=0.3)
    assert not layer.uniform_grid
    return layer
