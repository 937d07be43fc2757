"""Channel attention of MFDS-DETR's feature pyramid.

Chen et al., "Accurate Leukocyte Detection Based on Deformable-DETR and Multi-Level Feature Fusion
for Aiding Diagnosis of Blood Diseases", section 3.3, "Feature Selection Module".

Differences from the paper:

- The paper names the two poolings, their sum and the sigmoid. The bottleneck and its ratio of 4
  come from the released code.
"""

from typing import Any

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


class ChannelBottleneck(nn.Module):
    """Base of the attentions over channels, which pass pooled channels through a bottleneck.

    Args:
        channels: C.
        reduction: The bottleneck has ``max(1, C // reduction)`` channels.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``channels`` or ``reduction`` is below 1.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ConfigError(
                f"{type(self).__name__}: channels and reduction must be at least 1, got "
                f"channels={channels}, reduction={reduction}"
            )
        self.add_layers(channels, max(1, channels // reduction), device=device, dtype=dtype)

    def add_layers(self, channels: int, hidden: int, **dd: Any) -> None:
        """Adds the layers into the bottleneck of ``hidden`` channels and out of it."""
        raise NotImplementedError(f"{type(self).__name__} does not define add_layers")


class ChannelAttention(ChannelBottleneck):
    """Computes channel weights from averages and maxima: (B, C, H, W) -> (B, C, 1, 1).

    ``sigmoid(bottleneck(average_pool(f)) + bottleneck(max_pool(f)))`` with one shared bottleneck of
    two 1x1 convolutions without bias and a ReLU between them. The arguments are those of
    ``ChannelBottleneck``.
    """

    def add_layers(self, channels: int, hidden: int, **dd: Any) -> None:
        """Adds two 1x1 convolutions and a ReLU."""
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False, **dd)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False, **dd)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the weights, in (0, 1): (B, C, H, W) -> (B, C, 1, 1)."""
        average = features.mean(dim=(2, 3), keepdim=True)
        largest = features.amax(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self._bottleneck(average) + self._bottleneck(largest))

    def _bottleneck(self, pooled: Tensor) -> Tensor:
        return self.expand(self.activation(self.squeeze(pooled)))
