"""The spline branch on GPUs as an operator of PyTorch's, by kernels in Triton.

`torch.ops.wbcnets.kan_spline` is opaque to compilers, has shapes on the meta device, and a backward
operator of its own, which makes the bases again.
"""

from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor]


def fused_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`(..., I) -> (..., O)` on uniform cubic knots, in float32, on a GPU.

    The arguments are those of `wbcnets.ops.kan_spline.kan_spline`.
    """
    y = _forward(x.reshape(-1, x.shape[-1]), grid, spline_weight, spline_scaler)
    y = y.view(*x.shape[:-1], spline_weight.shape[0])
    return y if linear is None else torch.nn.functional.linear(*linear) + y


@torch.library.custom_op("wbcnets::kan_spline", mutates_args=(), device_types="cuda")
def _forward(x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor) -> Tensor:
    from wbcnets.ops.kan_spline.triton_kernels import triton_forward

    return triton_forward(x, grid, spline_weight, spline_scaler)


@torch.library.custom_op("wbcnets::kan_spline_backward", mutates_args=(), device_types="cuda")
def _backward(
    grad: Tensor, x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor
) -> Gradients:
    from wbcnets.ops.kan_spline.triton_kernels import triton_backward

    return triton_backward(grad, x, grid, spline_weight, spline_scaler)


@_forward.register_fake
def _forward_fake(x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], spline_weight.shape[0])


@_backward.register_fake
def _backward_fake(
    grad: Tensor, x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor
) -> Gradients:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(x, memory_format=contiguous),
        torch.empty_like(spline_weight, memory_format=contiguous),
        torch.empty_like(spline_scaler, memory_format=contiguous),
    )


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x_grad, weight_grad, scaler_grad = _backward(grad, *ctx.saved_tensors)
    return x_grad, None, weight_grad, scaler_grad


_forward.register_autograd(_differentiate, setup_context=_keep_arguments)
