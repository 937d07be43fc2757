"""Knots of B-splines, evenly spaced or fitted to data, and refits of a spline to other knots."""

import torch
from torch import Tensor

from wbcnets.ops.kan_spline.plain import bspline_bases

# Directions of the data that the new bases hardly see stay at 0 instead of becoming huge
RELATIVE_RANK_TOLERANCE = 1e-6
# Rows times features to refit at once: some hundred megabytes in float64
REFIT_BLOCK = 1_048_576


def uniform_knots(
    grid_size: int,
    order: int,
    grid_range: tuple[float, float],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns knots of ``grid_size`` intervals over a range and ``order`` more per side, (K,)."""
    low, high = grid_range
    spacing = (high - low) / grid_size
    steps = torch.arange(-order, grid_size + order + 1, device=device, dtype=dtype)
    # In the order of the released code, whose grids are then equal to the last bit
    return steps * spacing + low


def are_uniform(grid: Tensor, stored_dtype: torch.dtype) -> bool:
    """Returns whether every row of knots (I, K) is evenly spaced, except for rounding.

    Args:
        grid: Ascending knots.
        stored_dtype: Narrowest type that the knots have been stored in.
    """
    knots = grid.double()
    spacing = (knots[:, -1:] - knots[:, :1]) / (grid.shape[1] - 1)
    even = knots[:, :1] + spacing * torch.arange(grid.shape[1], device=grid.device)
    epsilon = max(torch.finfo(stored_dtype).eps, torch.finfo(grid.dtype).eps)
    rounding = 4 * epsilon * knots.abs().amax(dim=1, keepdim=True)
    return bool(((knots - even).abs() <= rounding).all())


def adaptive_knots(
    rows: Tensor, grid_size: int, order: int, margin: float, uniform_fraction: float
) -> Tensor:
    """Returns knots that follow the data's quantiles: (R, I) -> (I, grid_size + 2 * order + 1).

    Inner knots are ``f * even + (1 - f) * quantiles`` with f = ``uniform_fraction``. The even ones
    reach from ``margin`` below the smallest value to ``margin`` above the largest. Outer knots
    follow at the even spacing (Liu et al., 2024, section 2.2: grids follow the activations).
    """
    ordered = rows.double().sort(dim=0).values
    chosen = torch.linspace(0, len(rows) - 1, grid_size + 1, dtype=torch.float64).round().long()
    quantiles = ordered[chosen.to(rows.device)].t()  # (I, grid_size + 1)
    low, high = ordered[0] - margin, ordered[-1] + margin
    spacing = ((high - low) / grid_size)[:, None]
    steps = torch.arange(grid_size + 1, device=rows.device, dtype=torch.float64)
    even = low[:, None] + spacing * steps
    inner = uniform_fraction * even + (1 - uniform_fraction) * quantiles
    outside = torch.arange(1, order + 1, device=rows.device, dtype=torch.float64)
    left = inner[:, :1] - spacing * outside.flip(0)
    right = inner[:, -1:] + spacing * outside
    return torch.cat([left, inner, right], dim=1)


def refitted_weight(
    rows: Tensor, old_grid: Tensor, new_grid: Tensor, order: int, spline_weight: Tensor
) -> Tensor:
    """Returns coefficients on new knots whose splines are nearest to the old ones on the data.

    The least-squares solution with the smallest coefficients. All edges of a feature share its
    bases, so one matrix (n, n) per feature moves all of them.

    Args:
        rows: Data (R, I).
        old_grid: Knots (I, K).
        new_grid: Knots (I, K).
        order: Degree of the polynomial pieces.
        spline_weight: Coefficients on the old knots, (O, I, n).

    Returns:
        (O, I, n) in float64.
    """
    features = max(1, REFIT_BLOCK // len(rows))
    moved = []
    for x, old, new, weight in zip(
        rows.double().split(features, dim=1),
        old_grid.double().split(features),
        new_grid.double().split(features),
        spline_weight.double().split(features, dim=1),
    ):
        old_bases = bspline_bases(x, old, order).transpose(0, 1)  # (I, R, n)
        new_bases = bspline_bases(x, new, order).transpose(0, 1)
        move = torch.linalg.pinv(new_bases, rtol=RELATIVE_RANK_TOLERANCE) @ old_bases
        moved.append(torch.einsum("imn,oin->oim", move, weight))
    return torch.cat(moved, dim=1)
