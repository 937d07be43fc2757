"""Path aggregation pyramid, a rival of HS-FPN in MFDS-DETR's table 6.

Liu et al., "Path Aggregation Network for Instance Segmentation", section 3.1. Differences from the
paper: GroupNorm behind every convolution, and a map that does not halve exactly is brought to the
next level's size by bilinear interpolation.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wbcnets.layers.necks.channel_mapper import PyramidNeck, conv_norm
from wbcnets.layers.necks.fpn import FPN, resize_like


class PAFPN(PyramidNeck):
    """An FPN, then a path from the bottom up that brings fine positions to the high levels.

    N_1 = P_1 and N_(l+1) = conv3x3(conv3x3 of stride 2 (N_l) + P_(l+1)), a ReLU behind each.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        interpolation: How the FPN up-samples: "nearest" or "bilinear".
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
        self.fpn = FPN(
            self.in_channels, out_channels, interpolation=interpolation, device=device, dtype=dtype
        )
        self.downsamples = nn.ModuleList(
            conv_norm(
                out_channels, out_channels, 3, stride=2, relu=True, device=device, dtype=dtype
            )
            for _ in self.in_channels[1:]
        )
        self.outputs = nn.ModuleList(
            conv_norm(out_channels, out_channels, 3, relu=True, device=device, dtype=dtype)
            for _ in self.in_channels[1:]
        )
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuses from the top down, then from the bottom up."""
        pyramid = self.fpn(features)
        outputs = pyramid[:1]
        for level, (downsample, output) in enumerate(zip(self.downsamples, self.outputs), start=1):
            below = resize_like(downsample(outputs[-1]), pyramid[level])
            outputs.append(output(below + pyramid[level]))
        return outputs
