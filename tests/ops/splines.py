"""Knots, inputs and coefficients of small splines."""

import torch

from wbcnets.ops.kan_spline.knots import uniform_knots


def uniform_grid(features=2, size=5, order=3, dtype=torch.float64):
    return uniform_knots(size, order, (-1.0, 1.0), dtype=dtype).repeat(features, 1)


def uneven_grid(features=2, size=5, order=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (features, size + 2 * order)
    steps = 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64)
    knots = torch.cat([torch.zeros(features, 1, dtype=torch.float64), steps.cumsum(dim=1)], dim=1)
    return knots / knots[:, -1:] * 4 - 2


def random_rows(rows=12, features=2, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, features, generator=generator, dtype=dtype) * 1.5


def weights(features=2, outputs=3, bases=8, seed=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, features, bases, generator=generator, dtype=dtype)
    return weight, torch.randn(outputs, features, generator=generator, dtype=dtype)
