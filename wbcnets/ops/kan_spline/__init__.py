"""The spline branch of a KAN layer: the weighted sum of each input's B-spline bases.

Liu et al., "KAN: Kolmogorov-Arnold Networks", 2024, section 2.2; de Boor, "A Practical Guide to
Splines", chapters IX and X.

Bases come from a recursion for any knots (``cox_de_boor``) or from a closed form for uniform cubic
ones (``cardinal``). Their sum is one expression (``plain``: the reference, and the form for
compilers) or the fast path, which stores no bases for the backward pass (``recompute``).
"""

import torch
from torch import Tensor

from wbcnets.ops.autocast import autocast_off
from wbcnets.ops.kan_spline.fused import fused_spline, has_loops
from wbcnets.ops.kan_spline.plain import bspline_bases, plain_spline
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
    """Returns ``y_o = sum_i scaler_oi * sum_j weight_oij * B_j(x_i)``: (..., I) -> (..., O).

    Runs in float32 or wider even under autocast: a bfloat16 input has too few digits to find its
    knots. Bases are 0 outside the knots, so inputs of any size, and infinite ones, give finite
    results and gradients. NaN stays NaN. The result has the widest type of the arguments, and
    float32 for half types.

    Args:
        x: Inputs (..., I).
        grid: Knots (I, K) in ascending order, one row per input feature.
        spline_weight: Coefficients (O, I, K - order - 1).
        spline_scaler: One factor per pair of an output and an input, (O, I).
        order: Degree of the polynomial pieces, 3 for cubic ones.
        uniform: Whether every row of the grid is evenly spaced. The caller must know: a look at
            the grid would stop compilers and wait for the device.
        linear: Inputs (..., J) and a matrix (O, J) whose product is added, like the base branch of
            a KAN layer; cheaper here than as a sum of two results.

    Raises:
        ValueError: if the shapes do not match.
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
    # Compilers fuse the plain form and decide what to recompute; an exported graph must run
    # without this library
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    compiling = torch.compiler.is_compiling() or exporting
    with autocast_off(x):
        if not compiling:
            return recomputed_spline(*tensors, order, uniform, linear)
        if not exporting and x.device.type == "cpu" and uniform and order == 3 and has_loops():
            return fused_spline(*tensors, linear)
        return plain_spline(*tensors, order, uniform, linear)


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
