"""The spline branch in plain tensor operations: the reference, and the form for compilers.

Inside this package the bases precede the features, (..., n, I): each basis is one contiguous block,
and a row of blocks times a matrix (n * I, O) is the layer.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.ops.kan_spline.cardinal import cardinal_cubic_bases
from wbcnets.ops.kan_spline.cox_de_boor import cox_de_boor_bases


def bspline_bases(x: Tensor, grid: Tensor, order: int = 3, *, uniform: bool = False) -> Tensor:
    """Returns all B-spline bases: (..., I), (I, K) -> (..., I, K - order - 1).

    They sum to 1 between knots ``order`` and ``K - 1 - order``, and are 0 outside the first and the
    last knot. Pieces are half-open, [t_j, t_j+1). That matters only where bases jump: those of
    order 0, and those that end in a repeated knot.

    Args:
        x: Inputs.
        grid: Knots in ascending order, one row per input feature.
        order: Degree of the polynomial pieces.
        uniform: Whether every row of the grid is evenly spaced; order 3 then has a closed form.
    """
    return _stacked_bases(x, grid, order, uniform).transpose(-1, -2)


def plain_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
    uniform: bool,
    linear: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    silu: bool = False,
) -> Tensor:
    """(..., I) -> (..., O); see ``wbcnets.ops.kan_spline.kan_spline`` for the arguments."""
    bases = _stacked_bases(x, grid, order, uniform)  # (..., n, I)
    matrix = (spline_weight * spline_scaler.unsqueeze(-1)).transpose(1, 2)  # (O, n, I)
    factors, matrix = bases.flatten(-2), matrix.flatten(1)
    if linear is not None:
        activated = F.silu(linear[0]) if silu else linear[0]
        factors = torch.cat([factors, activated], dim=-1)
        matrix = torch.cat([matrix, linear[1]], dim=-1)
    dtype = dtype or factors.dtype
    return F.linear(factors.to(dtype), matrix.to(dtype))


def _stacked_bases(x: Tensor, grid: Tensor, order: int, uniform: bool) -> Tensor:
    """(..., I), (I, K) -> (..., n, I), by the closed form or the recursion."""
    if uniform and order == 3:
        return cardinal_cubic_bases(x, grid)
    return cox_de_boor_bases(x, grid, order)
