"""Feature-aligned pyramid, a rival of HS-FPN in MFDS-DETR's table 6.

Huang et al., "FaPN: Feature-aligned Pyramid Network for Dense Image Prediction", section 3.

Differences from the paper:

- GroupNorm follows the selecting and the output convolutions.
- The offsets come from one 3x3 convolution of the two maps. It starts at zero, so the alignment
  starts as a plain convolution.
- The sampled values are not modulated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from wbcnets.layers.necks.base import PyramidNeck, conv_norm, resize_like


class FeatureSelectionModule(nn.Module):
    """Emphasizes the channels that matter, then projects: (B, C, H, W) -> (B, out_channels, H, W).

    ``conv(f + u * f)`` with the importance ``u = sigmoid(conv(average_pool(f)))``, (B, C, 1, 1).

    Args:
        in_channels: C.
        out_channels: Channels of the result.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.importance = nn.Conv2d(
            in_channels, in_channels, 1, bias=False, device=device, dtype=dtype
        )
        self.projection = conv_norm(in_channels, out_channels, 1, device=device, dtype=dtype)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        pooled = features.mean(dim=(2, 3), keepdim=True)
        importance = torch.sigmoid(self.importance(pooled))
        return self.projection(features + importance * features)


class FeatureAlignmentModule(nn.Module):
    """Moves an up-sampled map onto a fine one by a deformable 3x3 convolution.

    Args:
        channels: C of both maps.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.offset = nn.Conv2d(2 * channels, 2 * 9, 3, padding=1, device=device, dtype=dtype)
        self.alignment = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
        self.activation = nn.ReLU()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Aligns ``high`` with ``low``: both (B, C, H, W) -> (B, C, H, W)."""
        offset = self.offset(torch.cat([low, high], dim=1))
        weight, bias = self.alignment.weight, self.alignment.bias
        # torchvision's operator needs one dtype for all, and has no half types on the CPU
        dtype = torch.promote_types(weight.dtype, torch.float32)
        aligned = deform_conv2d(
            high.to(dtype),
            offset.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            padding=1,
        )
        return self.activation(aligned.to(high.dtype))


class FaPN(PyramidNeck):
    """Adds aligned high-level maps to selected low-level maps, top-down.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a number of channels is not positive.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        selections: list[nn.Module] = [
            FeatureSelectionModule(channels, out_channels, device=device, dtype=dtype)
            for channels in self.in_channels[:-1]
        ]
        top = conv_norm(self.in_channels[-1], out_channels, 1, device=device, dtype=dtype)
        self.selections = nn.ModuleList([*selections, top])
        self.alignments = nn.ModuleList(
            FeatureAlignmentModule(out_channels, device=device, dtype=dtype)
            for _ in self.in_channels[1:]
        )
        self.outputs = self.make_outputs(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Adds zero offsets to the base's initialization."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, FeatureAlignmentModule):
                nn.init.zeros_(module.offset.weight)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Selects, aligns and adds top-down."""
        fused = [selection(f) for selection, f in zip(self.selections, features)]
        for level in range(len(fused) - 2, -1, -1):
            above = resize_like(fused[level + 1], fused[level])
            fused[level] = fused[level] + self.alignments[level](fused[level], above)
        return [output(f) for output, f in zip(self.outputs, fused)]
