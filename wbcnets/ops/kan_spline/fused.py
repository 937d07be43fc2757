"""The spline branch as a PyTorch operator: C++ loops on CPUs, Triton on CUDA.

``torch.ops.wbcnets.kan_spline`` is opaque to compilers and has meta shapes. Its backward operator
recomputes the bases.
"""

from typing import Any

import torch
from torch import Tensor

from wbcnets.ops.kan_spline.cardinal import LIBRARY
from wbcnets.ops.kan_spline.recompute import blockwise_forward, blockwise_gradients
from wbcnets.ops.native import load_library

Gradients = tuple[Tensor, Tensor, Tensor]
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
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(..., I) -> (..., O) on uniform cubic knots, in float32 or wider; on GPUs in float32 only.

    See ``wbcnets.ops.kan_spline.kan_spline`` for the arguments.
    """
    activated, base_weight = (None, None) if linear is None else linear
    if activated is not None:
        activated = activated.reshape(-1, activated.shape[-1])
    rows = x.reshape(-1, x.shape[-1])
    y = _forward(rows, grid, spline_weight, spline_scaler, activated, base_weight)
    return y.view(*x.shape[:-1], spline_weight.shape[0])


@torch.library.custom_op("wbcnets::kan_spline", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    activated: Tensor | None,
    base_weight: Tensor | None,
) -> Tensor:
    return blockwise_forward(
        x, grid, spline_weight, spline_scaler, activated, base_weight, ORDER, True
    )


@torch.library.custom_op("wbcnets::kan_spline_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor
) -> Gradients:
    return blockwise_gradients(grad, x, grid, spline_weight, spline_scaler, ORDER, True)


@_forward.register_kernel("cuda")
def _forward_cuda(*arguments: Any) -> Tensor:
    from wbcnets.ops.kan_spline.triton_kernels import triton_forward

    *spline, activated, base_weight = arguments
    y = triton_forward(*spline)
    if activated is None or base_weight is None:
        return y
    return torch.addmm(y, activated, base_weight.t())


@_backward.register_kernel("cuda")
def _backward_cuda(*arguments: Any) -> Gradients:
    from wbcnets.ops.kan_spline.triton_kernels import triton_backward

    return triton_backward(*arguments)


@_forward.register_fake
def _forward_fake(x: Tensor, grid: Tensor, spline_weight: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], spline_weight.shape[0])


@_backward.register_fake
def _backward_fake(grad: Tensor, x: Tensor, grid: Tensor, *parameters: Tensor) -> Gradients:
    contiguous = torch.contiguous_format
    of_x, of_weight, of_scaler = (
        torch.empty_like(tensor, memory_format=contiguous) for tensor in (x, *parameters)
    )
    return of_x, of_weight, of_scaler


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *spline, activated, base_weight = ctx.saved_tensors
    x_grad, weight_grad, scaler_grad = _backward(grad.contiguous(), *spline)
    if activated is None or base_weight is None:
        return x_grad, None, weight_grad, scaler_grad, None, None
    base = (grad @ base_weight, grad.t() @ activated)
    return x_grad, None, weight_grad, scaler_grad, *base


_forward.register_autograd(_differentiate, setup_context=_keep_arguments)
