"""The spline branch as one expression: the reference, and what compilers and exporters see."""

from torch import Tensor
from torch.nn import functional as F

from wbcnets.ops.kan_spline.bases import stacked_bases


def plain_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
    uniform: bool,
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`(..., I) -> (..., O)`; the arguments are those of `wbcnets.ops.kan_spline.kan_spline`."""
    bases = stacked_bases(x, grid, order, uniform)  # (..., n, I)
    matrix = (spline_weight * spline_scaler.unsqueeze(-1)).transpose(1, 2)  # (O, n, I)
    spline = F.linear(bases.flatten(-2), matrix.flatten(1))
    return spline if linear is None else F.linear(*linear) + spline
