"""Path aggregation pyramid, a rival of HS-FPN in MFDS-DETR's table 6.

Liu et al., "Path Aggregation Network for Instance Segmentation", section 3.1.

Differences from the paper:

- GroupNorm follows every convolution.
- A map that does not halve exactly is resized to the next level by bilinear interpolation.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wbcnets.layers.necks.base import resize_like
from wbcnets.layers.necks.fpn import FPN


class PAFPN(FPN):
    """An FPN, then a bottom-up path that brings precise positions to the high levels.

    N_1 = P_1 and N_(l+1) = conv3x3(conv3x3 of stride 2 (N_l) + P_(l+1)); a ReLU follows each. The
    arguments are those of ``FPN``.
    """

    def add_layers(self, **dd: Any) -> None:
        """Adds the FPN and the layers of the bottom-up path."""
        self.fpn = FPN(self.in_channels, self.out_channels, interpolation=self.interpolation, **dd)
        steps = self.num_levels - 1
        self.downsamples = self.make_outputs(count=steps, stride=2, relu=True, **dd)
        self.outputs = self.make_outputs(count=steps, relu=True, **dd)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuses top-down, then bottom-up."""
        pyramid = self.fpn(features)
        outputs = pyramid[:1]
        for level, (downsample, output) in enumerate(zip(self.downsamples, self.outputs), start=1):
            below = resize_like(downsample(outputs[-1]), pyramid[level])
            outputs.append(output(below + pyramid[level]))
        return outputs
