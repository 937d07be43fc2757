"""Dropout fused with its neighbor: the ReLU before it, or the residual sum behind it.

On a CPU, PyTorch's dropout draws its random numbers one after another and stores the mask, which
takes up to a fifth of a detector's training step. Here the mask is a hash of a seed and the index
of the value (``wbcnets/ops/native/dropout.cpp``). The seed comes from PyTorch's generator, so
``torch.manual_seed`` and restored generator states reproduce it. Other devices and compilers use
PyTorch's dropout.

Both functions may overwrite their first argument, hence the underscore: pass the fresh result of a
linear layer.
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


def relu_dropout_(x: Tensor, p: float, training: bool) -> Tensor:
    """Returns ``dropout(relu(x))``; may overwrite ``x``.

    Args:
        x: Input of any shape that nothing else needs.
        p: Probability that a value becomes 0, in [0, 1); the others are divided by ``1 - p``.
        training: Whether values are dropped.
    """
    if not training or p == 0:
        return F.relu(x, inplace=True)
    if _is_fast(x):
        return _ReluDropout.apply(x, p)
    return F.dropout(F.relu(x, inplace=True), p)


def dropout_add_(x: Tensor, residual: Tensor, p: float, training: bool) -> Tensor:
    """Returns ``dropout(x) + residual``; may overwrite ``x``.

    Args:
        x: Input that nothing else needs.
        residual: Added to it, of the same shape.
        p: Probability that a value of ``x`` becomes 0, in [0, 1); the others are divided by
            ``1 - p``.
        training: Whether values are dropped.
    """
    if not training or p == 0:
        return residual + x
    if _is_fast(x) and residual.shape == x.shape and residual.dtype == x.dtype:
        return _DropoutAdd.apply(x, residual, p)
    return residual + F.dropout(x, p)


def _is_fast(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    if x.dtype not in TYPES or not x.is_contiguous() or (x.is_leaf and x.requires_grad):
        return False
    return load_library(LIBRARY) is not None


class _ReluDropout(torch.autograd.Function):
    """Saves its result alone: what was negative or dropped is 0 there."""

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


class _DropoutAdd(torch.autograd.Function):
    """Saves the seed alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, p: float) -> Tensor:
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
        return grad_x, grad, None


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
