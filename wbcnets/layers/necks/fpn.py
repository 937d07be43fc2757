"""Feature Pyramid Network, a rival of HS-FPN in MFDS-DETR's table 6.

Lin et al., "Feature Pyramid Networks for Object Detection", section 3 and figure 3.

Differences from the paper:

- GroupNorm follows every convolution, because detectors train with a few images per batch.
- A map is resized to the next level's exact size, which need not be its double.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.base import PyramidNeck, resize_like

INTERPOLATIONS = ("nearest", "bilinear")


class FPN(PyramidNeck):
    """1x1 laterals, top-down addition, a 3x3 convolution per level.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        interpolation: Up-sampling before the addition, "nearest" or "bilinear".
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if the interpolation is unknown or a number of channels is not positive.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        interpolation: Literal["nearest", "bilinear"] = "nearest",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        if interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"interpolation must be one of {INTERPOLATIONS}, got {interpolation!r}"
            )
        self.interpolation = interpolation
        self.add_layers(device=device, dtype=dtype)
        self.reset_parameters()

    def add_layers(self, **dd: Any) -> None:
        """Adds the layers on a device and in a type."""
        self.laterals = self.make_projections(**dd)
        self.outputs = self.make_outputs(**dd)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuses top-down."""
        fused = [lateral(f) for lateral, f in zip(self.laterals, features)]
        for level in range(len(fused) - 2, -1, -1):
            above = resize_like(fused[level + 1], fused[level], self.interpolation)
            fused[level] = fused[level] + above
        return [output(f) for output, f in zip(self.outputs, fused)]
