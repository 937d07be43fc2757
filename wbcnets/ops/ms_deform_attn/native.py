"""Deformable attention by the C++ loops of ``wbcnets/ops/native/ms_deform_attn.cpp``, for CPUs.

They write only the result. A point costs 4 rows of D values read and 4 D multiply-adds; in the
backward pass it also writes as many rows and takes twice the multiply-adds.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from wbcnets.ops.native import call, load_library

LIBRARY = "ms_deform_attn"


@torch.compiler.assume_constant_result
def is_available() -> bool:
    """Returns whether there are compiled loops; compilers of graphs treat it as constant."""
    return load_library(LIBRARY) is not None


def native_forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """(B, S, M, D), (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D).

    Args:
        value: See ``wbcnets.ops.ms_deform_attn.ms_deform_attn``, in float32 or float64.
        spatial_shapes: Height and width of all levels in one sequence.
        locations: See there, in the type of ``value``.
        weights: See there, in the type of ``value``.
    """
    tensors = [tensor.contiguous() for tensor in (value, locations, weights)]
    batch, _, heads, dim = value.shape
    out = value.new_empty(batch, locations.shape[1], heads * dim)
    _call("forward", [*tensors, out], value, spatial_shapes, locations)
    return out


def native_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of value, locations and weights, given that of the result."""
    tensors = [tensor.contiguous() for tensor in (grad, value, locations, weights)]
    contiguous = torch.contiguous_format
    grads = (
        torch.zeros_like(value, memory_format=contiguous),
        torch.empty_like(locations, memory_format=contiguous),
        torch.empty_like(weights, memory_format=contiguous),
    )
    _call("backward", [*tensors, *grads], value, spatial_shapes, locations)
    return grads


def _call(
    name: str,
    tensors: Sequence[Tensor],
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
) -> None:
    library = load_library(LIBRARY)
    if library is None:
        raise RuntimeError(
            "backend 'fused' needs its compiled loops, which are switched off or could not be "
            "compiled (the log says why); choose backend='bag'"
        )
    batch, tokens, heads, dim = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes = (batch, tokens, heads, dim, queries, levels, points)
    shapes = (ctypes.c_int64 * len(spatial_shapes))(*spatial_shapes)
    call(library, name, tensors, shapes, *map(ctypes.c_int64, sizes))
