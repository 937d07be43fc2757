"""B-spline bases of any order on any knots, by the recursion of Cox and de Boor.

de Boor, "A Practical Guide to Splines", chapters IX and X.
"""

import torch
from torch import Tensor


def cox_de_boor_bases(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """Returns bases of any order on any knots: (..., I), (I, K) -> (..., n, I)."""
    knots = grid.t()
    bases = _boxes(x, knots)
    inside = _clamped(x, knots)
    for degree in range(1, order + 1):
        bases = _raise_degree(bases, inside, knots, degree)
    return bases


def cox_de_boor_bases_and_slopes(x: Tensor, grid: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Returns bases and their derivatives with respect to the input, each (..., n, I).

    ``B'_j,k = k (B_j,k-1 / (t_j+k - t_j) - B_j+1,k-1 / (t_j+k+1 - t_j+1))``.
    """
    if order == 0:
        bases = cox_de_boor_bases(x, grid, 0)
        return bases, torch.zeros_like(bases)
    knots = grid.t()
    lower = cox_de_boor_bases(x, grid, order - 1)
    weighted = lower * _inverse_widths(knots, order)
    slopes = order * (weighted[..., :-1, :] - weighted[..., 1:, :])
    return _raise_degree(lower, _clamped(x, knots), knots, order), slopes


def _boxes(x: Tensor, knots: Tensor) -> Tensor:
    """Returns the bases of order 0: (..., I), (K, I) -> (..., K - 1, I)."""
    x = x.unsqueeze(-2)
    return ((x >= knots[:-1]) & (x < knots[1:])).to(knots.dtype)


def _clamped(x: Tensor, knots: Tensor) -> Tensor:
    """Returns inputs clamped to the outer knots: infinity times a basis of 0 would be NaN."""
    # A plain clamp by tensors would halve the gradient of inputs on an outer knot
    inside = (x >= knots[0]) & (x <= knots[-1])
    return torch.where(inside, x, x.detach().clamp(knots[0], knots[-1])).unsqueeze(-2)


def _inverse_widths(knots: Tensor, degree: int) -> Tensor:
    """Returns ``1 / (t_j+degree - t_j)``, or 0 for knots that coincide: 0 / 0 counts as 0."""
    widths = knots[degree:] - knots[:-degree]
    return torch.where(widths > 0, 1 / widths, torch.zeros_like(widths))


def _raise_degree(bases: Tensor, x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Returns one step of the recursion, degree - 1 -> degree: (..., n + 1, I) -> (..., n, I)."""
    weighted = bases * _inverse_widths(knots, degree)
    rising = (x - knots[: -degree - 1]) * weighted[..., :-1, :]
    falling = (knots[degree + 1 :] - x) * weighted[..., 1:, :]
    return rising + falling


class CoxDeBoor:
    """Bases of one block of rows at a time, with the methods of ``CardinalCubic``."""

    scale = 1.0

    def __init__(self, grid: Tensor, order: int) -> None:
        self.grid, self.order = grid, order

    def bases(self, x: Tensor, out: Tensor) -> None:
        """Writes the bases: (r, I) -> (r, n * I), of the grid's type or narrower."""
        out.copy_(cox_de_boor_bases(x, self.grid, self.order).flatten(1))

    def bases_and_input_gradient(
        self, x: Tensor, grad: Tensor, x_grad: Tensor, out: Tensor
    ) -> None:
        """Writes the bases, and the sum of ``grad * slope`` into ``x_grad``."""
        bases, slopes = cox_de_boor_bases_and_slopes(x, self.grid, self.order)
        torch.sum(grad.unflatten(1, slopes.shape[1:]) * slopes, dim=1, out=x_grad)
        out.copy_(bases.flatten(1))
