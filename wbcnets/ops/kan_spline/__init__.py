"""The spline branch of a KAN layer: B-spline bases of every input, weighted and summed.

Source: Liu et al., "KAN: Kolmogorov-Arnold Networks", 2024, section 2.2; the bases
are those of de Boor, "A Practical Guide to Splines", chapters IX and X.

Bases come from a recursion for any knots (`cox_de_boor`) or a closed form for uniform cubic ones
(`cardinal`); the sum over them is one expression (`plain`, the reference and what compilers see) or
the fast path, which stores none of the bases for the backward pass (`recompute`).
"""

import torch
from torch import Tensor

from wbcnets.ops.kan_spline.bases import bspline_bases
from wbcnets.ops.kan_spline.fused import fused_spline, has_loops
from wbcnets.ops.kan_spline.plain import plain_spline
from wbcnets.ops.kan_spline.recompute import recomputed_spline
from wbcnets.ops.triton_switch import wants_triton

__all__ = ["bspline_bases", "kan_spline", "plain_spline", "recomputed_spline"]


def kan_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int = 3,
    *,
    uniform: bool = False,
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`y_o = sum_i scaler_oi * sum_j weight_oij * B_j(x_i)`: `(..., I), ... -> (..., O)`.

    Runs in float32 or wider, also under autocast: half of a bfloat16 input's digits would be gone
    before the first knot is found. Bases are 0 outside the knots, so that inputs of any size, and
    infinite ones, give finite results and gradients; NaN stays NaN.

    Args:
        x: Inputs `(..., I)`.
        grid: Knots `(I, K)` in ascending order, one row for every input feature.
        spline_weight: Coefficients `(O, I, K - order - 1)`.
        spline_scaler: One factor per pair of an output and an input, `(O, I)`.
        order: Degree of the polynomial pieces, 3 for cubic ones.
        uniform: Every row of the grid is evenly spaced. Said by the caller and never looked up in
            the grid, which would stop compilers and wait for the device.
        linear: Inputs `(..., J)` and a matrix `(O, J)` whose product is added, as the base branch
            of a KAN layer; cheaper here than as a sum of two results.

    Returns:
        `(..., O)`, in the widest type of the arguments, and in float32 for half types.

    Raises:
        ValueError: The shapes do not fit together.
    """
    _check_shapes(x, grid, spline_weight, spline_scaler, order)
    wide = torch.promote_types(x.dtype, torch.float32)
    for tensor in (spline_weight, spline_scaler):
        wide = torch.promote_types(wide, tensor.dtype)
    tensors = (x.to(wide), grid.to(wide), spline_weight.to(wide), spline_scaler.to(wide))
    if linear is not None:
        linear = (linear[0].to(wide), linear[1].to(wide))
    if wants_triton(x.device) and uniform and order == 3 and wide == torch.float32:
        return fused_spline(*tensors, linear)
    # Compilers fuse the plain form and decide themselves what to recompute; an exported graph must
    # run where this library is not
    exporting = _is_exporting() or torch.jit.is_tracing()
    compiling = torch.compiler.is_compiling() or exporting
    if x.device.type == "meta":
        evaluate = plain_spline if compiling else recomputed_spline
        return evaluate(*tensors, order, uniform, linear)
    with torch.autocast(x.device.type, enabled=False):
        if not compiling:
            return recomputed_spline(*tensors, order, uniform, linear)
        if not exporting and x.device.type == "cpu" and uniform and order == 3 and has_loops():
            return fused_spline(*tensors, linear)
        return plain_spline(*tensors, order, uniform, linear)


def _is_exporting() -> bool:
    """Releases of PyTorch that cannot tell get the form that is always right."""
    if not hasattr(torch.compiler, "is_exporting"):
        return True
    return torch.compiler.is_exporting()


def _check_shapes(
    x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor, order: int
) -> None:
    features, knots = grid.shape
    outputs = spline_weight.shape[0]
    if x.shape[-1] != features:
        raise ValueError(f"x has {x.shape[-1]} features, but grid has a row for each of {features}")
    expected = (outputs, features, knots - order - 1)
    if tuple(spline_weight.shape) != expected:
        raise ValueError(
            f"spline_weight has shape {tuple(spline_weight.shape)}, expected {expected} for a grid "
            f"of {knots} knots and order {order}"
        )
    if tuple(spline_scaler.shape) != expected[:2]:
        raise ValueError(
            f"spline_scaler has shape {tuple(spline_scaler.shape)}, expected {expected[:2]}"
        )
