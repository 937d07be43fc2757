"""Help for layers whose numbers do not fit half precision under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

# Largest input of an AutocastSafeConv2d
_LARGEST_INPUT = 256.0


def autocast_off(x: Tensor) -> AbstractContextManager[None]:
    """Returns a context without autocast on the tensor's device; meta tensors have no autocast."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """Returns a tensor in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def is_autocast_on(x: Tensor) -> bool:
    """Returns whether autocast is on for the tensor's device."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


class AutocastSafeConv2d(nn.Conv2d):
    """A convolution that does not overflow under autocast: (B, C, H, W) -> (B, C', H', W').

    float16 ends at 65,504, and a sum over 3,072 channels soon gets there. If the largest input
    exceeds 256, the input is scaled down to 256 and the result, in float32, scaled back up. Without
    autocast this is a plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolved map."""
        if not is_autocast_on(x):
            return super().forward(x)
        wide = widened(x)
        scale = (wide.detach().abs().amax() / _LARGEST_INPUT).clamp(min=1.0)
        return super().forward(wide / scale).to(wide.dtype) * scale
