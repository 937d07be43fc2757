"""Deformable-DETR's input projection.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", appendix
A.4: a 1x1 convolution with GroupNorm per backbone map, and further levels from 3x3 convolutions of
stride 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.base import PyramidNeck, conv_norm


class ChannelMapper(PyramidNeck):
    """Deformable-DETR's input projection: no fusion between the levels.

    Each backbone map gets a 1x1 convolution with bias and GroupNorm(32). The first extra level is a
    3x3 convolution of stride 2 on the last backbone map; each further one follows the extra level
    before it.

    Args:
        in_channels: Channels of each backbone map.
        out_channels: Channels of every output map.
        num_extra_levels: Number of levels added below the last one; there are then
            ``len(in_channels) + num_extra_levels`` output maps.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``num_extra_levels`` is negative or a number of channels is not positive.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        num_extra_levels: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        if num_extra_levels < 0:
            raise ConfigError(
                f"ChannelMapper: num_extra_levels must be at least 0, got {num_extra_levels}"
            )
        self.projections = self.make_projections(bias=True, device=device, dtype=dtype)
        self.extra_levels = nn.ModuleList(
            conv_norm(channels, out_channels, 3, stride=2, bias=True, device=device, dtype=dtype)
            for channels in (self.in_channels[-1], *[out_channels] * num_extra_levels)[
                :num_extra_levels
            ]
        )
        self.num_levels += num_extra_levels
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Projects every map and adds the extra levels."""
        outputs = [projection(f) for projection, f in zip(self.projections, features)]
        extra = features[-1]
        for level in self.extra_levels:
            extra = level(extra)
            outputs.append(extra)
        return outputs
