"""High-level Screening-feature Fusion Pyramid (HS-FPN) of MFDS-DETR.

Chen et al., "Accurate Leukocyte Detection Based on Deformable-DETR and Multi-Level Feature Fusion
for Aiding Diagnosis of Blood Diseases", section 3.3, figures 2 and 3, equations 1 and 2.

Differences from the paper:

- The paper does not give the bottleneck ratio 4, nor the 3x3 convolution, GroupNorm and ReLU after
  every level; both come from the released code.
- ``cascade="top"`` is the released code's top-down path; the default is that of figure 2.
- The paper does not specify the bilinear resize; here it uses ``align_corners=False``.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.channel_attention import ChannelAttention
from wbcnets.layers.necks.base import PyramidNeck, resize_like

UPSAMPLES = ("tconv+bilinear", "bilinear")
CASCADES = ("fused", "top")


class FeatureSelection(nn.Module):
    """Channel attention, then dimension matching: (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: Channels of the result.
        reduction: Ratio of the attention's bottleneck.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reduction: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.attention = ChannelAttention(in_channels, reduction, device=device, dtype=dtype)
        self.projection = nn.Conv2d(in_channels, out_channels, 1, device=device, dtype=dtype)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        return self.projection(features * self.attention(features))


class SelectiveFeatureFusion(nn.Module):
    """Lets a high-level map choose the channels of a low-level map, and adds the two.

    Args:
        channels: C of both maps.
        reduction: Ratio of the attention's bottleneck.
        upsample: "tconv+bilinear" as in equation (1), or "bilinear" alone (table 6's HS-FPN(BL)).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``upsample`` is neither of the two.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        upsample: Literal["tconv+bilinear", "bilinear"] = "tconv+bilinear",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if upsample not in UPSAMPLES:
            raise ConfigError(f"upsample must be one of {UPSAMPLES}, got {upsample!r}")
        self.expand: nn.Module = nn.Identity()
        if upsample == "tconv+bilinear":
            self.expand = nn.ConvTranspose2d(
                channels,
                channels,
                3,
                stride=2,
                padding=1,
                output_padding=1,
                device=device,
                dtype=dtype,
            )
        self.attention = ChannelAttention(channels, reduction, device=device, dtype=dtype)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Fuses two maps.

        Args:
            low: Map of the higher resolution, (B, C, H1, W1).
            high: Map of the higher level, (B, C, H, W).

        Returns:
            The fused map (equation 2) and the up-sampled high-level map (equation 1), each
            (B, C, H1, W1).
        """
        expanded = self.expand(high)
        upsampled = resize_like(expanded, low)
        return low * self.attention(upsampled) + upsampled, upsampled


class HSFPN(PyramidNeck):
    """High-level Screening-feature Fusion Pyramid.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        reduction: Ratio of the attentions' bottlenecks.
        cascade: The high-level map of each fusion: "fused", the fused map of the level above
            (figure 2), or "top", the top level's map, up-sampled once per level (the released
            code). With two levels both are the same.
        upsample: "tconv+bilinear" as in equation (1), or "bilinear" alone (table 6's HS-FPN(BL)).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if an option or a number of channels is out of range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        reduction: int = 4,
        cascade: Literal["fused", "top"] = "fused",
        upsample: Literal["tconv+bilinear", "bilinear"] = "tconv+bilinear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        if cascade not in CASCADES:
            raise ConfigError(f"cascade must be one of {CASCADES}, got {cascade!r}")
        if upsample not in UPSAMPLES:
            raise ConfigError(f"upsample must be one of {UPSAMPLES}, got {upsample!r}")
        self.cascade = cascade
        self.selections = nn.ModuleList(
            FeatureSelection(channels, out_channels, reduction, device=device, dtype=dtype)
            for channels in self.in_channels
        )
        self.fusions = nn.ModuleList(
            SelectiveFeatureFusion(out_channels, reduction, upsample, device=device, dtype=dtype)
            for _ in self.in_channels[1:]
        )
        self.outputs = self.make_outputs(relu=True, device=device, dtype=dtype)
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Selects, fuses top-down, and smooths."""
        selected = [selection(f) for selection, f in zip(self.selections, features)]
        fused, high = list(selected), selected[-1]
        for level in range(len(selected) - 2, -1, -1):
            fused[level], upsampled = self.fusions[level](selected[level], high)
            high = fused[level] if self.cascade == "fused" else upsampled
        return [output(f) for output, f in zip(self.outputs, fused)]
