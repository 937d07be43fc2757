"""B-spline bases of any order on any knots: the recursion of Cox and de Boor.

de Boor, "A Practical Guide to Splines", chapters IX and X.
"""

import torch
from torch import Tensor


def cox_de_boor_bases(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """Bases of any order on any knots, by recursion: `(..., I), (I, K) -> (..., n, I)`."""
    knots = grid.t()
    bases = _boxes(x, knots)
    inside = _clamped(x, knots)
    for degree in range(1, order + 1):
        bases = _raise_degree(bases, inside, knots, degree)
    return bases


def cox_de_boor_bases_and_slopes(x: Tensor, grid: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Bases and their derivatives with respect to the input, both `(..., n, I)`.

    `B'_j,k = k (B_j,k-1 / (t_j+k - t_j) - B_j+1,k-1 / (t_j+k+1 - t_j+1))`.
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
    """Order 0, 1 from a knot up to the next: `(..., I), (K, I) -> (..., K - 1, I)`."""
    x = x.unsqueeze(-2)
    return ((x >= knots[:-1]) & (x < knots[1:])).to(knots.dtype)


def _clamped(x: Tensor, knots: Tensor) -> Tensor:
    """The inputs pulled to the outer knots, since infinity times a basis of 0 would be NaN."""
    # Selected, as clamp by tensors halves the gradient of inputs that lie on an outer knot
    inside = (x >= knots[0]) & (x <= knots[-1])
    return torch.where(inside, x, x.detach().clamp(knots[0], knots[-1])).unsqueeze(-2)


def _inverse_widths(knots: Tensor, degree: int) -> Tensor:
    """`1 / (t_j+degree - t_j)`, and 0 where these knots coincide: there 0 / 0 counts as 0."""
    widths = knots[degree:] - knots[:-degree]
    return torch.where(widths > 0, 1 / widths, torch.zeros_like(widths))


def _raise_degree(bases: Tensor, x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """One step of the recursion: `(..., n + 1, I)` of degree - 1 to `(..., n, I)`."""
    weighted = bases * _inverse_widths(knots, degree)
    rising = (x - knots[: -degree - 1]) * weighted[..., :-1, :]
    falling = (knots[degree + 1 :] - x) * weighted[..., 1:, :]
    return rising + falling


class CoxDeBoor:
    """Bases for one block of rows at a time, as `wbcnets.ops.kan_spline.cardinal.CardinalCubic`."""

    scale = 1.0

    def __init__(self, grid: Tensor, order: int) -> None:
        self.grid, self.order = grid, order

    def bases(self, x: Tensor) -> Tensor:
        """`(r, I) -> (r, n * I)`."""
        return cox_de_boor_bases(x, self.grid, self.order).flatten(1)

    def bases_and_input_gradient(self, x: Tensor, grad: Tensor, x_grad: Tensor) -> Tensor:
        """`(r, I), (r, n * I) -> (r, n * I)`; `x_grad` takes `grad * slope`, summed over bases."""
        bases, slopes = cox_de_boor_bases_and_slopes(x, self.grid, self.order)
        torch.sum(grad.view_as(slopes) * slopes, dim=1, out=x_grad)
        return bases.flatten(1)
