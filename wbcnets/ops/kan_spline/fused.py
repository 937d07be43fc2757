"""The KAN layer's splines as a PyTorch operator, by C++ loops on CPUs.

``torch.ops.wbcnets.kan_spline`` is opaque to compilers and has meta shapes. Its backward operator
recomputes the bases.
"""

from typing import Any

import torch
from torch import Tensor

from wbcnets.ops.kan_spline.cardinal import LIBRARY
from wbcnets.ops.kan_spline.recompute import (
    Gradients,
    as_rows,
    blockwise_forward,
    blockwise_gradients,
)
from wbcnets.ops.native import load_library

ORDER = 3


@torch.compiler.assume_constant_result
def has_loops() -> bool:
    """Returns whether there are compiled loops for CPUs."""
    return load_library(LIBRARY) is not None


def fused_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    silu: bool,
) -> Tensor:
    """(..., I) -> (..., O) on uniform cubic knots on CPUs.

    See ``wbcnets.ops.kan_spline.kan_spline`` for the arguments.
    """
    linear_x, base_weight = as_rows(linear[0]), linear[1]
    y = _forward(as_rows(x), grid, spline_weight, spline_scaler, linear_x, base_weight, dtype, silu)
    return y.view(*x.shape[:-1], spline_weight.shape[0])


@torch.library.custom_op("wbcnets::kan_spline", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear_x: Tensor,
    base_weight: Tensor,
    dtype: torch.dtype,
    silu: bool,
) -> Tensor:
    parameters = (spline_weight, spline_scaler, linear_x, base_weight)
    return blockwise_forward(x, grid, *parameters, ORDER, True, dtype, silu)


@torch.library.custom_op("wbcnets::kan_spline_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear_x: Tensor,
    base_weight: Tensor,
    dtype: torch.dtype,
    silu: bool,
) -> Gradients:
    parameters = (spline_weight, spline_scaler, linear_x, base_weight)
    return blockwise_gradients(grad, x, grid, *parameters, ORDER, True, dtype, silu)


@_forward.register_fake
def _forward_fake(x: Tensor, grid: Tensor, spline_weight: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], spline_weight.shape[0], dtype=others[-2])


@_backward.register_fake
def _backward_fake(grad: Tensor, x: Tensor, grid: Tensor, *parameters: Any) -> Gradients:
    contiguous = torch.contiguous_format
    x_grad, *others = (
        torch.empty_like(tensor, memory_format=contiguous) for tensor in (x, *parameters[:4])
    )
    return x_grad, others[0], others[1], others[2], others[3]


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dtype, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x_grad, *others = _backward(grad.contiguous(), *ctx.saved_tensors, ctx.dtype, ctx.silu)
    return x_grad, None, *others, None, None


_forward.register_autograd(_differentiate, setup_context=_keep_arguments)
