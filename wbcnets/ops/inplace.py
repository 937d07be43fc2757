"""Layers that overwrite their input at inference.

At inference, allocating another map costs more than the arithmetic on it. These layers therefore
write into their input if neither gradients nor a recorded graph need it, and otherwise are
PyTorch's own. Give them fresh maps only, which nothing else reads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def may_overwrite() -> bool:
    """Returns whether neither gradients nor a recorded graph need intermediate values."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not torch.is_grad_enabled() and not recorded


def multiply_(x: Tensor, factors: Tensor) -> Tensor:
    """Returns ``x * factors``; may overwrite ``x``."""
    return x.mul_(factors) if may_overwrite() and factors.dtype == x.dtype else x * factors


def add_(x: Tensor, others: Tensor) -> Tensor:
    """Returns ``x + others``, of the same shape; may overwrite ``x``."""
    fits = torch.promote_types(x.dtype, others.dtype) == x.dtype
    return x.add_(others) if may_overwrite() and fits else x + others


class InplaceBatchNorm2d(nn.BatchNorm2d):
    """Batch norm; with fixed statistics it may overwrite its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None or not may_overwrite():
            return super().forward(x)
        if x.dtype != mean.dtype:
            return super().forward(x)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


class InplaceHardswish(nn.Hardswish):
    """``x * ReLU6(x + 3) / 6``; may overwrite its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activation, of the input's shape."""
        return F.hardswish(x, inplace=may_overwrite())
