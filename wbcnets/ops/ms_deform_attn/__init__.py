"""Multi-scale deformable attention: the sampling operator and the choice of its backend.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021,
equation 3; the MFDS-DETR paper, equations 3 to 7. Every backend takes and returns the same tensors
and agrees with ``grid_sample``, the reference.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from wbcnets.errors import ConfigError
from wbcnets.ops.autocast import autocast_off
from wbcnets.ops.ms_deform_attn.bag import bag_attention
from wbcnets.ops.ms_deform_attn.fused import fused_attention
from wbcnets.ops.ms_deform_attn.grid_sample import Shapes, grid_sample_attention
from wbcnets.ops.ms_deform_attn.native import is_available

__all__ = ["BACKENDS", "ms_deform_attn", "select_backend"]

# The arguments and the result of ``ms_deform_attn``, whose shapes are checked before the call
Backend = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]

BACKENDS: dict[str, Backend] = {
    "bag": bag_attention,
    "fused": fused_attention,
    "grid_sample": grid_sample_attention,
}
ENVIRONMENT_VARIABLE = "WBCNETS_MSDA"


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str | None = None,
) -> Tensor:
    """Returns the weighted sum of values sampled bilinearly at points of every level.

    (B, S, M, D), (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D) with M heads of D channels,
    L levels of P points. Points outside a map read zeros. Sampling runs in float32 or wider,
    because a bfloat16 coordinate is off by more than a pixel on a 640-pixel map.

    Args:
        value: The projected maps of all levels, flattened and concatenated, S = sum of H_l * W_l.
        spatial_shapes: (H_l, W_l) of every level.
        sampling_locations: Points (x, y) as fractions of the map's size, 0 to 1 inside it.
        attention_weights: Weights of the points.
        backend: A name of ``BACKENDS``; None means that of the environment variable
            ``WBCNETS_MSDA``, or else the fastest one for the device.

    Raises:
        ConfigError: if the backend's name is unknown, or it does not run on the device.
        ValueError: if the shapes do not match.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    attend = BACKENDS[select_backend(value.device, backend)]
    with autocast_off(value):
        wide = torch.promote_types(value.dtype, torch.float32)
        sampled = attend(
            value.to(wide),
            spatial_shapes,
            sampling_locations.to(wide),
            attention_weights.to(wide),
        )
    return sampled.to(value.dtype)


def select_backend(device: torch.device, requested: str | None = None) -> str:
    """Returns the name of the backend for a device.

    Export and tracing always use ``grid_sample``, whose operators every runtime knows.

    Raises:
        ConfigError: if the requested name, or the one in ``WBCNETS_MSDA``, is unknown, or that
            backend does not run on the device.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "grid_sample"
    name = requested or os.environ.get(ENVIRONMENT_VARIABLE)
    if not name:
        return _fastest(device)
    origin = "backend" if requested else ENVIRONMENT_VARIABLE
    if name not in BACKENDS:
        raise ConfigError(f"{origin}={name!r} is unknown; use one of {sorted(BACKENDS)}")
    if name == "fused" and device.type not in ("cpu", "meta"):
        raise ConfigError(f"{origin}='fused' runs on CPUs only, not on {device}; use 'grid_sample'")
    return name


def _fastest(device: torch.device) -> str:
    if device.type != "cpu":
        return "grid_sample"
    return "fused" if is_available() else "bag"


def _check_shapes(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    tokens = sum(height * width for height, width in spatial_shapes)
    if value.shape[1] != tokens:
        raise ValueError(
            f"value has {value.shape[1]} tokens, but spatial_shapes {list(spatial_shapes)} "
            f"make {tokens}"
        )
    expected = (*attention_weights.shape, 2)
    if tuple(sampling_locations.shape) != expected:
        raise ValueError(
            f"sampling_locations has shape {tuple(sampling_locations.shape)}, expected {expected}"
        )
    if attention_weights.shape[3] != len(spatial_shapes):
        raise ValueError(
            f"attention_weights has {attention_weights.shape[3]} levels, "
            f"spatial_shapes {len(spatial_shapes)}"
        )
