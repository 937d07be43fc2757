"""The spline branch with bases computed block by block, and again in the backward pass.

A cubic layer with 8 bases makes 8 numbers of every input. Stored for autograd, they and their
intermediate values are the largest part of a KAN's memory. Computed in place on some hundred rows
at a time, they stay in the cache, and only the input is stored.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wbcnets.ops.autocast import autocast_off
from wbcnets.ops.kan_spline.cardinal import CardinalCubic, NativeCardinalCubic, find_native
from wbcnets.ops.kan_spline.cox_de_boor import CoxDeBoor
from wbcnets.ops.kan_spline.plain import plain_spline

# Inputs per block: on CPUs what fits a core's second-level cache, elsewhere enough to fill the
# device, with buffers of some hundred megabytes
CPU_BLOCK_PER_THREAD = 98_304
DEVICE_BLOCK = 4_194_304


def recomputed_spline(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
    uniform: bool,
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(..., I) -> (..., O); see ``wbcnets.ops.kan_spline.kan_spline`` for the arguments."""
    rows = _as_rows(x)
    activated, base_weight = (None, None) if linear is None else (_as_rows(linear[0]), linear[1])
    y = _RecomputedSpline.apply(
        rows, grid, spline_weight, spline_scaler, activated, base_weight, order, uniform
    )
    return y.view(*x.shape[:-1], spline_weight.shape[0])


def blockwise_forward(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    activated: Tensor | None,
    base_weight: Tensor | None,
    order: int,
    uniform: bool,
) -> Tensor:
    """(R, I) -> (R, O): the spline branch plus ``activated`` times ``base_weight``."""
    block = _block_rows(x)
    form = _select_form(grid, order, uniform, block)
    matrix = _weight_matrix(spline_weight, spline_scaler * form.scale)
    y = x.new_empty(len(x), len(spline_weight))
    # The blocks below add to y: a second array of its size would cost more than the sum
    if activated is not None and base_weight is not None:
        torch.mm(activated, base_weight.t(), out=y)
    for x_block, y_block in zip(x.split(block), y.split(block)):
        beta = 0 if activated is None else 1
        torch.addmm(y_block, form.bases(x_block), matrix, beta=beta, out=y_block)
    return y


class _RecomputedSpline(torch.autograd.Function):
    """``blockwise_forward`` with gradients; saves only its arguments."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return blockwise_forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.order, ctx.uniform = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, activated, base_weight = ctx.saved_tensors
        spline = (*arguments, ctx.order, ctx.uniform)
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # second derivatives are needed
            gradients = _differentiable_gradients(grad, *spline)
        else:
            with autocast_off(grad):
                gradients = blockwise_gradients(grad, *spline)
        x_grad, weight_grad, scaler_grad = gradients
        activated_grad = base_grad = None
        if activated is not None and base_weight is not None:
            activated_grad, base_grad = grad @ base_weight, grad.t() @ activated
        return x_grad, None, weight_grad, scaler_grad, activated_grad, base_grad, None, None


def blockwise_gradients(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    order: int,
    uniform: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, the weight and the scaler."""
    block = _block_rows(x)
    form = _select_form(grid, order, uniform, block)
    matrix = _weight_matrix(spline_weight, spline_scaler * form.scale)
    matrix_grad = torch.zeros_like(matrix)
    x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
    bases_grad = x.new_empty(block, len(matrix))
    for x_block, grad_block, x_grad_block in zip(
        x.split(block), grad.split(block), x_grad.split(block)
    ):
        block_grad = torch.mm(grad_block, matrix.t(), out=bases_grad[: len(x_block)])
        bases = form.bases_and_input_gradient(x_block, block_grad, x_grad_block)
        matrix_grad.addmm_(bases.t(), grad_block)
    outputs, features, count = spline_weight.shape
    scaled_grad = matrix_grad.view(count, features, outputs).permute(2, 1, 0) * form.scale
    weight_grad = torch.mul(scaled_grad, spline_scaler.unsqueeze(-1)).contiguous()
    return x_grad, weight_grad, (scaled_grad * spline_weight).sum(dim=-1)


def _differentiable_gradients(grad: Tensor, *arguments: Any) -> list[Tensor | None]:
    """Returns the same through the plain form, which autograd can differentiate again."""
    x, grid, spline_weight, spline_scaler, order, uniform = arguments
    # Views, so the arguments' dependence on each other is not counted
    inputs = [tensor.view_as(tensor) for tensor in (x, spline_weight, spline_scaler)]
    y = plain_spline(inputs[0], grid, inputs[1], inputs[2], order, uniform)
    followed = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(y, followed, grad, create_graph=True, materialize_grads=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _as_rows(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _block_rows(x: Tensor) -> int:
    on_cpu = x.device.type == "cpu"
    block = CPU_BLOCK_PER_THREAD * torch.get_num_threads() if on_cpu else DEVICE_BLOCK
    return max(1, min(block // max(1, x.shape[1]), len(x)))


def _select_form(
    grid: Tensor, order: int, uniform: bool, rows: int
) -> CardinalCubic | NativeCardinalCubic | CoxDeBoor:
    if not uniform or order != 3:
        return CoxDeBoor(grid, order)
    library = find_native(grid)
    return NativeCardinalCubic(library, grid, rows) if library else CardinalCubic(grid, rows)


def _weight_matrix(spline_weight: Tensor, factors: Tensor) -> Tensor:
    """(O, I, n), (O, I) -> (n * I, O)."""
    scaled = spline_weight * factors.unsqueeze(-1)
    return scaled.permute(2, 1, 0).reshape(-1, len(spline_weight))
