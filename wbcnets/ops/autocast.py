"""Help for layers whose numbers do not fit half precision under autocast."""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

# Largest input of a product in float16
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


def is_autocast_to_float16(x: Tensor) -> bool:
    """Returns whether autocast is on for the tensor's device, and its type is float16."""
    return is_autocast_on(x) and torch.get_autocast_dtype(x.device.type) == torch.float16


def product_dtype(*tensors: Tensor) -> torch.dtype:
    """Returns the type in which to multiply tensors: autocast's, or else their common one.

    Half types count only where the hardware multiplies them: a CPU without float16 takes 70 times
    as long as in bfloat16, and 28 times as long as in float32.
    """
    common = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    device = tensors[0].device.type
    if is_autocast_on(tensors[0]) and common != torch.float64:
        common = torch.get_autocast_dtype(device)
    is_slow = device == "cpu" and common.itemsize < 4 and not _cpu_multiplies(common)
    return torch.float32 if is_slow else common


@torch.compiler.assume_constant_result
def _cpu_multiplies(dtype: torch.dtype) -> bool:
    """Returns whether the CPU has products of a half type, or cheap emulations."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def scaled_into_float16(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``x / scale`` in float32, at most 256 in size, and the scale, 1 or more.

    float16 ends at 65,504, and a sum over 3,072 channels soon gets there.
    """
    wide = widened(x)
    scale = (wide.detach().abs().amax() / _LARGEST_INPUT).clamp(min=1.0)
    return wide / scale, scale


class AutocastSafeConv2d(nn.Conv2d):
    """A convolution that does not overflow under autocast: (B, C, H, W) -> (B, C', H', W').

    In float16, the input is scaled into its range and the result, in float32, scaled back. In other
    types, this is a plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolved map."""
        if not is_autocast_to_float16(x):
            return super().forward(x)
        x, scale = scaled_into_float16(x)
        return super().forward(x).to(scale.dtype) * scale
