"""Dropout joined with what stands beside it: a ReLU before it, or a residual sum behind it.

PyTorch's own on a processor draws one number after the other and stores the mask; in a detector's
training step that takes as long as a fifth of everything. Here the mask is a hash of a seed and the
place, `wbcnets/ops/native/dropout.cpp`. The seed comes from PyTorch's generator, so that
`torch.manual_seed` and saved states repeat it. Elsewhere, and for compilers, PyTorch's own is used.

Both functions overwrite `x`: give the fresh result of a linear layer.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wbcnets.ops.native import TYPES, call, load_library

LIBRARY = "dropout"
_LARGEST_SEED = 2**63 - 1


def relu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`dropout(relu(x))`, of any shape; x may be overwritten.

    Args:
        x: Input that nobody else needs.
        p: Share of values that become 0, in [0, 1); the others are divided by 1 - p.
        training: Nothing is dropped otherwise.
    """
    if not training or p == 0:
        return F.relu(x, inplace=True)
    if _is_fast(x):
        return _ReluDropout.apply(x, p)
    return F.dropout(F.relu(x, inplace=True), p)


def add_dropout(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """`residual + dropout(x)` of two tensors of one shape; x may be overwritten.

    Args:
        residual: What is added.
        x: Input that nobody else needs.
        p: Share of x's values that become 0, in [0, 1); the others are divided by 1 - p.
        training: Nothing is dropped otherwise.
    """
    if not training or p == 0:
        return residual + x
    if _is_fast(x) and residual.shape == x.shape and residual.dtype == x.dtype:
        return _AddDropout.apply(residual, x, p)
    return residual + F.dropout(x, p)


def _is_fast(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    if x.dtype not in TYPES or not x.is_contiguous() or (x.is_leaf and x.requires_grad):
        return False
    return load_library(LIBRARY) is not None


class _ReluDropout(torch.autograd.Function):
    """Keeps its result alone, which tells what was negative or dropped: it is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.p = p
        _call("relu_dropout", [x], _draw_seed(), p)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        grad_x = torch.empty_like(out)
        _call("relu_dropout_backward", [grad.contiguous(), out, grad_x], 0, ctx.p)
        return grad_x, None


class _AddDropout(torch.autograd.Function):
    """Keeps the seed."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.p, ctx.seed = p, _draw_seed()
        _call("add_dropout", [residual.contiguous(), x], ctx.seed, p)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad = grad.contiguous()
        grad_x = torch.empty_like(grad)
        _call("add_dropout_backward", [grad, grad_x], ctx.seed, ctx.p)
        return grad, grad_x, None


def _draw_seed() -> int:
    return int(torch.randint(_LARGEST_SEED, ()).item())


def _call(name: str, tensors: list[Tensor], seed: int, p: float) -> None:
    library = load_library(LIBRARY)
    assert library is not None
    call(
        library,
        name,
        tensors,
        ctypes.c_int64(tensors[0].numel()),
        ctypes.c_uint64(seed),
        ctypes.c_uint32(round(p * 2**32)),
        ctypes.c_double(1 / (1 - p)),
    )
