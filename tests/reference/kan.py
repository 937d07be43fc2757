"""A KAN layer, one edge and one basis at a time: the recursion of Cox and de Boor as it is defined.

de Boor, "A Practical Guide to Splines", chapters IX and X; Liu et al., "KAN", 2024, section 2.2.
"""

import torch
from torch import Tensor


def basis(x: Tensor, knots: Tensor, j: int, order: int) -> Tensor:
    """``B_j`` of one input, a scalar; ``knots`` are one feature's, (K,)."""
    if order == 0:
        return ((x >= knots[j]) & (x < knots[j + 1])).to(x.dtype)
    total = torch.zeros_like(x)
    rise = knots[j + order] - knots[j]
    if rise > 0:
        total = total + (x - knots[j]) / rise * basis(x, knots, j, order - 1)
    fall = knots[j + order + 1] - knots[j + 1]
    if fall > 0:
        total = total + (knots[j + order + 1] - x) / fall * basis(x, knots, j + 1, order - 1)
    return total


def bases(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """(R, I), (I, K) -> (R, I, K - order - 1)."""
    rows, features = x.shape
    count = grid.shape[1] - order - 1
    values = [
        torch.stack([basis(x[row, feature], grid[feature], j, order) for j in range(count)])
        for row in range(rows)
        for feature in range(features)
    ]
    return torch.stack(values).view(rows, features, count)


def kan_linear(
    x: Tensor,
    grid: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
) -> Tensor:
    """(R, I) -> (R, O): SiLU branch and spline branch."""
    values = bases(x, grid, order)
    rows, features = x.shape
    outputs = base_weight.shape[0]
    result = []
    for row in range(rows):
        for output in range(outputs):
            total = x.new_zeros(())
            for feature in range(features):
                silu = x[row, feature] / (1 + torch.exp(-x[row, feature]))
                spline = (spline_weight[output, feature] * values[row, feature]).sum()
                total = total + base_weight[output, feature] * silu
                total = total + spline_scaler[output, feature] * spline
            result.append(total)
    return torch.stack(result).view(rows, outputs)
