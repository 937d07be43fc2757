"""Extra convolution stage that MFDS-DETR adds after ResNet-50.

Chen et al., "Accurate Leukocyte Detection Based on Deformable-DETR and Multi-Level Feature Fusion
for Aiding Diagnosis of Blood Diseases", section 3.2: 1x1 to fewer channels, 3x3 that halves the
map, 1x1 to more channels. The paper describes no shortcut, so there is none.

Differences from the paper:

- It does not give widths and norms. Widths and GroupNorm come from the released code; GroupNorm and
  ReLU follow each convolution as in a ResNet bottleneck.
"""

from functools import partial

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.base import conv_norm


class ExtraStage(nn.Module):
    """1x1, 3x3 of stride 2, 1x1: (B, in_channels, H, W) -> (B, out_channels, ceil(H/2), ceil(W/2)).

    Args:
        in_channels: Channels of the backbone's last map.
        mid_channels: Channels of the 3x3 convolution; None means half of ``in_channels``.
        out_channels: Channels of the new map; None means twice ``in_channels``.
        groups: Upper limit of each GroupNorm's groups, see ``group_norm``.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        out_channels: Channels of the new map.
        stride: 2, the factor between the strides of the new and the last map.

    Raises:
        ConfigError: if a width or ``groups`` is below 1.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        mid_channels: int | None = None,
        out_channels: int | None = None,
        groups: int = 32,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        mid_channels = max(1, in_channels // 2) if mid_channels is None else mid_channels
        out_channels = 2 * in_channels if out_channels is None else out_channels
        if min(in_channels, mid_channels, out_channels, groups) < 1:
            raise ConfigError(
                "ExtraStage: all widths and groups must be at least 1, got "
                f"in_channels={in_channels}, mid_channels={mid_channels}, "
                f"out_channels={out_channels}, groups={groups}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = 2
        layer = partial(conv_norm, relu=True, max_groups=groups, device=device, dtype=dtype)
        self.reduce = layer(in_channels, mid_channels, 1)
        self.downsample = layer(mid_channels, mid_channels, 3, stride=2)
        self.expand = layer(mid_channels, out_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws He-normal convolutions as in ResNet, and resets the norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H/2), ceil(W/2)), not negative."""
        return self.expand(self.downsample(self.reduce(features)))
