"""Path aggregation pyramid, a rival of HS-FPN in MFDS-DETR's table 6.

Liu et al., "Path Aggregation Network for Instance Segmentation", section 3.1.

Differences from the paper:

- GroupNorm follows every convolution.
- A map that does not halve exactly is resized to the next level by bilinear interpolation.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wbcnets.layers.necks.base import PyramidNeck, resize_like
from wbcnets.layers.necks.fpn import FPN


class PAFPN(PyramidNeck):
    """An FPN, then a bottom-up path that brings precise positions to the high levels.

    N_1 = P_1 and N_(l+1) = conv3x3(conv3x3 of stride 2 (N_l) + P_(l+1)); a ReLU follows each.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        interpolation: Up-sampling of the FPN, "nearest" or "bilinear".
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
        interpolation: Literal["nearest", "bilinear"] = "nearest",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        self.fpn = FPN(
            self.in_channels, out_channels, interpolation=interpolation, device=device, dtype=dtype
        )
        steps = self.num_levels - 1
        self.downsamples = self.make_outputs(
            count=steps, stride=2, relu=True, device=device, dtype=dtype
        )
        self.outputs = self.make_outputs(count=steps, relu=True, device=device, dtype=dtype)
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuses top-down, then bottom-up."""
        pyramid = self.fpn(features)
        outputs = pyramid[:1]
        for level, (downsample, output) in enumerate(zip(self.downsamples, self.outputs), start=1):
            below = resize_like(downsample(outputs[-1]), pyramid[level])
            outputs.append(output(below + pyramid[level]))
        return outputs
