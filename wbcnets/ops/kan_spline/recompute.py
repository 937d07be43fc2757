"""The KAN layer with bases computed block by block, and again in the backward pass.

A cubic layer with 8 bases makes 8 numbers of every input. Stored for autograd, they and their
intermediate values are the largest part of a KAN's memory. Computed in place on some hundred rows
at a time, they stay in the cache, and only the input is stored.

The inputs of the linear part stand behind the bases, so one matrix product makes the layer, and two
its gradients.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.ops.autocast import autocast_off
from wbcnets.ops.kan_spline.cardinal import CardinalCubic, NativeCardinalCubic, find_native
from wbcnets.ops.kan_spline.cox_de_boor import CoxDeBoor
from wbcnets.ops.kan_spline.plain import plain_spline

# Inputs per block: on CPUs what fits a core's second-level cache, elsewhere enough to fill the
# device, with buffers of some hundred megabytes
CPU_BLOCK_PER_THREAD = 98_304
DEVICE_BLOCK = 4_194_304

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def recomputed_spline(
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
    """(..., I) -> (..., O); see ``wbcnets.ops.kan_spline.kan_spline`` for the arguments."""
    y = _RecomputedSpline.apply(
        as_rows(x),
        grid,
        spline_weight,
        spline_scaler,
        as_rows(linear[0]),
        linear[1],
        order,
        uniform,
        dtype,
        silu,
    )
    return y.view(*x.shape[:-1], spline_weight.shape[0])


def as_rows(x: Tensor) -> Tensor:
    """(..., I) -> (R, I)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def blockwise_forward(
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear_x: Tensor,
    base_weight: Tensor,
    order: int,
    uniform: bool,
    dtype: torch.dtype,
    silu: bool,
) -> Tensor:
    """(R, I) -> (R, O) in ``dtype``: the spline branch plus the linear part."""
    layer = _BlockwiseLayer(x, grid, linear_x, order, uniform, dtype, silu)
    matrix = layer.join_weights(spline_weight, spline_scaler, base_weight)
    y = x.new_empty(len(x), len(matrix), dtype=dtype)
    for start in range(0, len(x), layer.block):
        rows = slice(start, start + layer.block)
        factors = layer.fill(x[rows], linear_x[rows])
        torch.mm(factors, matrix.t(), out=y[rows])
    return y


def blockwise_gradients(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor,
    linear_x: Tensor,
    base_weight: Tensor,
    order: int,
    uniform: bool,
    dtype: torch.dtype,
    silu: bool,
) -> Gradients:
    """Returns the gradients of x, the weight, the scaler, the linear part's inputs and its matrix.

    The matrix's gradient is summed over blocks in the type of ``x``.
    """
    layer = _BlockwiseLayer(x, grid, linear_x, order, uniform, dtype, silu)
    matrix = layer.join_weights(spline_weight, spline_scaler, base_weight)
    matrix_grad = torch.zeros_like(matrix, dtype=x.dtype)
    x_grad, linear_x_grad = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, linear_x)
    )
    factors_grad = x.new_empty(layer.block, matrix.shape[1], dtype=dtype)
    for start in range(0, len(x), layer.block):
        rows = slice(start, start + layer.block)
        block_grad = torch.mm(grad[rows], matrix, out=factors_grad[: len(x[rows])])
        factors = layer.fill(x[rows], linear_x[rows], block_grad, x_grad[rows])
        activated_grad = block_grad[:, layer.bases :]
        if silu:
            wide_grad = activated_grad.to(linear_x.dtype)
            activated_grad = torch.ops.aten.silu_backward(wide_grad, linear_x[rows])
        linear_x_grad[rows] = activated_grad
        if dtype == x.dtype:
            matrix_grad.addmm_(grad[rows].t(), factors)
        else:
            matrix_grad += grad[rows].t() @ factors
    outputs, features, count = spline_weight.shape
    spline_grad = matrix_grad[:, : layer.bases].view(outputs, count, features).transpose(1, 2)
    scaled_grad = spline_grad * layer.form.scale
    weight_grad = torch.mul(scaled_grad, spline_scaler.unsqueeze(-1)).contiguous()
    scaler_grad = (scaled_grad * spline_weight).sum(dim=-1)
    return x_grad, weight_grad, scaler_grad, linear_x_grad, matrix_grad[:, layer.bases :].clone()


class _RecomputedSpline(torch.autograd.Function):
    """``blockwise_forward`` with gradients; saves only its arguments."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return blockwise_forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (
            # Second derivatives are needed
            _differentiable_gradients if torch.is_grad_enabled() else blockwise_gradients
        )
        with autocast_off(grad):
            x_grad, *others = gradients(grad, *ctx.saved_tensors, *ctx.options)
        return x_grad, None, *others, None, None, None, None


class _BlockwiseLayer:
    """The left factor of the layer's matrix product for one block of rows, (r, n * I + J).

    Args:
        x: All inputs (R, I).
        grid: Knots (I, K).
        linear_x: Inputs of the linear part, (R, J).
        order: Degree of the polynomial pieces.
        uniform: Whether the knots are evenly spaced.
        dtype: Type of the factor.
        silu: Whether the linear part's inputs pass through SiLU.
    """

    def __init__(
        self,
        x: Tensor,
        grid: Tensor,
        linear_x: Tensor,
        order: int,
        uniform: bool,
        dtype: torch.dtype,
        silu: bool,
    ) -> None:
        features, knots = grid.shape
        self.block = _block_rows(x, dtype)
        self.form = _select_form(grid, order, uniform, self.block, dtype)
        self.bases = (knots - order - 1) * features
        self.silu = silu
        width = self.bases + linear_x.shape[1]
        self._factors = x.new_empty(self.block, width, dtype=dtype)

    def join_weights(
        self, spline_weight: Tensor, spline_scaler: Tensor, base_weight: Tensor
    ) -> Tensor:
        """(O, I, n), (O, I), (O, J) -> (O, n * I + J) in the factor's type."""
        scaled = spline_weight * (spline_scaler * self.form.scale).unsqueeze(-1)
        matrix = self._factors.new_empty(len(spline_weight), self._factors.shape[1])
        matrix[:, : self.bases].unflatten(1, scaled.shape[:0:-1]).copy_(scaled.transpose(1, 2))
        matrix[:, self.bases :] = base_weight
        return matrix

    def fill(
        self,
        x: Tensor,
        linear_x: Tensor,
        grad: Tensor | None = None,
        x_grad: Tensor | None = None,
    ) -> Tensor:
        """(r, I), (r, J) -> (r, n * I + J); overwritten by the next call.

        Args:
            x: A block of inputs.
            linear_x: The block of the linear part's inputs.
            grad: The result's gradient, (r, n * I + J).
            x_grad: Receives the gradient of ``x`` that follows from ``grad``, (r, I).
        """
        factors = self._factors[: len(x)]
        bases = factors[:, : self.bases]
        if grad is None or x_grad is None:
            self.form.bases(x, bases)
        else:
            self.form.bases_and_input_gradient(x, grad[:, : self.bases], x_grad, bases)
        factors[:, self.bases :] = F.silu(linear_x) if self.silu else linear_x
        return factors


def _differentiable_gradients(grad: Tensor, *arguments: Any) -> list[Tensor | None]:
    """Returns the same through the plain form, which autograd can differentiate again."""
    x, grid, *parameters, order, uniform, dtype, silu = arguments
    # Views, so the arguments' dependence on each other is not counted
    inputs = [tensor.view_as(tensor) for tensor in (x, *parameters)]
    x, weight, scaler, *linear = inputs
    y = plain_spline(x, grid, weight, scaler, order, uniform, (linear[0], linear[1]), dtype, silu)
    followed = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(y, followed, grad, create_graph=True, materialize_grads=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _block_rows(x: Tensor, dtype: torch.dtype) -> int:
    on_cpu = x.device.type == "cpu"
    block = CPU_BLOCK_PER_THREAD * torch.get_num_threads() if on_cpu else DEVICE_BLOCK
    # Sums over blocks are in the type of x, and adding to them costs as much as narrow products
    block *= x.element_size() // dtype.itemsize
    largest = max(1, block // max(1, x.shape[1]))
    # Of equal size: a short last block costs as much preparation as a long one
    return max(1, math.ceil(len(x) / max(1, math.ceil(len(x) / largest))))


def _select_form(
    grid: Tensor, order: int, uniform: bool, rows: int, dtype: torch.dtype
) -> CardinalCubic | NativeCardinalCubic | CoxDeBoor:
    if not uniform or order != 3:
        return CoxDeBoor(grid, order)
    library = find_native(grid, dtype)
    return NativeCardinalCubic(library, grid) if library else CardinalCubic(grid, rows)
