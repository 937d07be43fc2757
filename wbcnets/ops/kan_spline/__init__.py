"""The spline branch of a KAN layer: the weighted sum of each input's B-spline bases.

Liu et al., "KAN: Kolmogorov-Arnold Networks", 2024, section 2.2; de Boor, "A Practical Guide to
Splines", chapters IX and X.

Bases come from a recursion for any knots (``cox_de_boor``) or from a closed form for uniform cubic
ones (``cardinal``). Their sum is one expression (``plain``: the reference, and the form for
compilers) or the fast path, which stores no bases for the backward pass (``recompute``).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.ops.autocast import autocast_off, product_dtype, scaled_into_float16
from wbcnets.ops.kan_spline.fused import fused_spline, has_loops
from wbcnets.ops.kan_spline.plain import bspline_bases, plain_spline
from wbcnets.ops.kan_spline.recompute import recomputed_spline

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
    dtype: torch.dtype | None = None,
    silu: bool = False,
) -> Tensor:
    """Returns ``y_o = sum_i scaler_oi * sum_j weight_oij * B_j(x_i)``: (..., I) -> (..., O).

    Bases are found in float32 or wider, because a half type has too few digits to tell knots apart.
    They lie in [0, 1], and fit a half type as well as a weight does: the matrix products may be
    half ones, with sums in float32. Bases are 0 outside the knots, so inputs of any size, and
    infinite ones, give finite results and gradients. NaN stays NaN.

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
        dtype: Type of the matrix products and of the result; None for autocast's or else the widest
            type of ``x`` and the spline's parameters. With a linear part, which has no bound, a
            float16 result comes in float32.
        silu: Whether the linear part's inputs pass through SiLU; it costs no memory here.

    Raises:
        ValueError: if the shapes do not match.
    """
    _check_shapes(x, grid, spline_weight, spline_scaler, order)
    dtype = dtype or product_dtype(x, spline_weight, spline_scaler)
    wide = torch.promote_types(dtype, torch.float32)
    spline = (x.to(wide), grid.to(wide), spline_weight.to(wide), spline_scaler.to(wide))
    nothing = (x.new_empty(*x.shape[:-1], 0), spline_weight.new_empty(len(spline_weight), 0))
    linear_x, base_weight = nothing if linear is None else linear
    with autocast_off(x):
        if linear is not None and dtype == torch.float16:
            activated, scale = scaled_into_float16(F.silu(linear_x) if silu else linear_x)
            base = F.linear(activated.to(dtype), base_weight.to(dtype)).to(wide) * scale
            return base + _evaluate(*spline, order, uniform, nothing, dtype, silu=False)
        joined = (linear_x.to(wide), base_weight.to(wide))
        return _evaluate(*spline, order, uniform, joined, dtype, silu)


def _evaluate(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
    uniform: bool,
    linear: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    silu: bool,
) -> Tensor:
    tensors = (x, grid, spline_weight, spline_scaler)
    # Compilers fuse the plain form and decide what to recompute; an exported graph must run
    # without this library
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    if not (torch.compiler.is_compiling() or exporting):
        return recomputed_spline(*tensors, order, uniform, linear, dtype, silu)
    if not exporting and x.device.type == "cpu" and uniform and order == 3 and has_loops():
        return fused_spline(*tensors, linear, dtype, silu)
    return plain_spline(*tensors, order, uniform, linear, dtype, silu)


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
