"""Feature Pyramid Network, a rival of HS-FPN in MFDS-DETR's table 6.

Lin et al., "Feature Pyramid Networks for Object Detection", section 3 and figure 3. Differences
from the paper: GroupNorm behind every convolution (detectors are trained with a few images per
batch), and maps are brought to the next level's exact size, which need not be its double.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.channel_mapper import PyramidNeck, conv_norm

INTERPOLATIONS = ("nearest", "bilinear")


def resize_like(
    source: Tensor, target: Tensor, interpolation: Literal["nearest", "bilinear"] = "bilinear"
) -> Tensor:
    """Brings a map to the size of another: (B, C, H, W) -> (B, C, H1, W1).

    Args:
        source: The map, (B, C, H, W).
        target: A map (B, _, H1, W1), of which only the size is used.
        interpolation: "nearest", or "bilinear" without aligned corners.
    """
    align_corners = False if interpolation == "bilinear" else None
    return F.interpolate(
        source, size=target.shape[-2:], mode=interpolation, align_corners=align_corners
    )


class FPN(PyramidNeck):
    """1x1 laterals, top-down addition, a 3x3 convolution per level.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        interpolation: How a map is up-sampled before the addition: "nearest" or "bilinear".
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: If an option or a number of channels is out of range.
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
        self.laterals = nn.ModuleList(
            conv_norm(channels, out_channels, 1, device=device, dtype=dtype)
            for channels in self.in_channels
        )
        self.outputs = nn.ModuleList(
            conv_norm(out_channels, out_channels, 3, device=device, dtype=dtype)
            for _ in self.in_channels
        )
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuses from the top down."""
        fused = [lateral(f) for lateral, f in zip(self.laterals, features)]
        for level in range(len(fused) - 2, -1, -1):
            above = resize_like(fused[level + 1], fused[level], self.interpolation)
            fused[level] = fused[level] + above
        return [output(f) for output, f in zip(self.outputs, fused)]
