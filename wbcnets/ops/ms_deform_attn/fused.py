"""Deformable attention as a PyTorch operator, by C++ loops on CPUs.

``torch.ops.wbcnets.ms_deform_attn`` is opaque to compilers and has meta shapes. It has its own
backward operator, so autograd stores no graph of the arithmetic inside.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wbcnets.ops.ms_deform_attn.grid_sample import Shapes
from wbcnets.ops.ms_deform_attn.native import native_backward, native_forward

Gradients = tuple[Tensor, Tensor, Tensor]


def fused_attention(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Calls the operator.

    Raises:
        RuntimeError: if there are no loops for this machine, see ``wbcnets.ops.native``.
    """
    flat_shapes = [side for shape in spatial_shapes for side in shape]
    return _forward(value, flat_shapes, sampling_locations, attention_weights)


@torch.library.custom_op("wbcnets::ms_deform_attn", mutates_args=(), device_types="cpu")
def _forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    return native_forward(value, spatial_shapes, locations, weights)


@torch.library.custom_op("wbcnets::ms_deform_attn_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Gradients:
    return native_backward(grad, value, spatial_shapes, locations, weights)


@_forward.register_fake
def _forward_fake(value: Tensor, spatial_shapes: Any, locations: Tensor, weights: Any) -> Tensor:
    batch, _, heads, dim = value.shape
    return value.new_empty(batch, locations.shape[1], heads * dim)


@_backward.register_fake
def _backward_fake(grad: Tensor, value: Tensor, spatial_shapes: Any, *others: Tensor) -> Gradients:
    contiguous = torch.contiguous_format
    of_value, of_locations, of_weights = (
        torch.empty_like(tensor, memory_format=contiguous) for tensor in (value, *others)
    )
    return of_value, of_locations, of_weights


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    grads = _backward(grad, value, ctx.spatial_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


_forward.register_autograd(_differentiate, setup_context=_keep_arguments)
