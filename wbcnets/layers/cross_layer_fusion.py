"""Cross-layer deep-feature fusion (CFFM) of ResNeXt-CC.

The ResNeXt-CC paper, section "Cross-layer feature fusion", equation 1, figure 4: the last stage's
first and last map pass two 1x1 convolutions each and are multiplied pixel by pixel.

Differences from the paper:

- It names neither norms nor activations. Here a batch norm and a ReLU separate the two
  convolutions, which would otherwise be one, and a batch norm follows them, so the product starts
  with a variance of 1.
"""

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


class CrossLayerFusion(nn.Module):
    """Multiplies two maps after two 1x1 convolutions each: (B, C, H, W) twice -> (B, D, H, W).

    Args:
        in_channels: C.
        channels: D; None means C, as in the paper.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a number of channels is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        width = in_channels if channels is None else channels
        if in_channels < 1 or width < 1:
            raise ConfigError(
                "CrossLayerFusion: in_channels and channels must be at least 1, got "
                f"in_channels={in_channels}, channels={channels}"
            )

        def branch() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, width, 1, bias=False, device=device, dtype=dtype),
                nn.BatchNorm2d(width, device=device, dtype=dtype),
                nn.ReLU(),
                nn.Conv2d(width, width, 1, bias=False, device=device, dtype=dtype),
                nn.BatchNorm2d(width, device=device, dtype=dtype),
            )

        self.early = branch()
        self.late = branch()

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """Returns the product of the transformed maps.

        Raises:
            ConfigError: if the two maps have different shapes.
        """
        if early.shape != late.shape:
            raise ConfigError(
                "CrossLayerFusion: the maps must have the same shape, got "
                f"{tuple(early.shape)} and {tuple(late.shape)}"
            )
        first, second = self.early(early), self.late(late)
        # A product of half-precision values may leave their range
        wide = torch.promote_types(first.dtype, torch.float32)
        return first.to(wide) * second.to(wide)
