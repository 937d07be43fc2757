"""Weighted bi-directional pyramid, a rival of HS-FPN in MFDS-DETR's table 6.

Tan et al., "EfficientDet: Scalable and Efficient Object Detection", section 3.

Differences from the paper:

- GroupNorm in place of batch norm, and any number of levels.
- A pooled map that does not have the next level's exact size is resized by bilinear interpolation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.base import PyramidNeck, conv_norm, group_norm, resize_like


class WeightedFusion(nn.Module):
    """Fast normalized fusion (section 3.3): a weighted mean of maps, then a convolution.

    Args:
        num_inputs: Number of maps.
        channels: C of all maps.
        separable: Depth-wise 3x3 + 1x1 convolution in place of a full 3x3.
        epsilon: Added to the sum of the weights.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        num_inputs: int,
        channels: int,
        separable: bool = True,
        epsilon: float = 1e-4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(num_inputs, device=device, dtype=dtype))
        self.activation = nn.SiLU()
        if not separable:
            self.convolution = conv_norm(channels, channels, 3, device=device, dtype=dtype)
            return
        depthwise = nn.Conv2d(
            channels,
            channels,
            3,
            padding=1,
            groups=channels,
            bias=False,
            device=device,
            dtype=dtype,
        )
        pointwise = nn.Conv2d(channels, channels, 1, bias=False, device=device, dtype=dtype)
        norm = group_norm(channels, device=device, dtype=dtype)
        self.convolution = nn.Sequential(depthwise, pointwise, norm)

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the weighted mean of maps (B, C, H, W); the weights pass a ReLU."""
        weights = F.relu(self.weight)
        weights = weights / (weights.sum() + self.epsilon)
        return torch.stack([weight * x for weight, x in zip(weights.unbind(), maps)]).sum(0)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``num_inputs`` maps (B, C, H, W) -> (B, C, H, W)."""
        return self.convolution(self.activation(self.fuse(maps)))


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up path (figure 2d) between maps of one width.

    Args:
        num_levels: Number of maps.
        channels: Their channels.
        separable: See ``WeightedFusion``.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        num_levels: int,
        channels: int,
        separable: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def fusion(num_inputs: int) -> WeightedFusion:
            return WeightedFusion(num_inputs, channels, separable, device=device, dtype=dtype)

        # The paper drops nodes with a single input: the top has no top-down node, and the lowest
        # level's top-down node is its output
        self.top_down = nn.ModuleList(fusion(2) for _ in range(num_levels - 1))
        inner = [fusion(3) for _ in range(num_levels - 2)]
        self.bottom_up = nn.ModuleList([*inner, fusion(2)] if num_levels > 1 else [])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H_l, W_l), highest resolution first -> the same shapes."""
        descending = list(maps)
        for level in range(len(maps) - 2, -1, -1):
            above = resize_like(descending[level + 1], maps[level], "nearest")
            descending[level] = self.top_down[level]([maps[level], above])
        outputs = descending[:1]
        for level, fusion in enumerate(self.bottom_up, start=1):
            pooled = F.max_pool2d(outputs[-1], 3, stride=2, padding=1)
            below = resize_like(pooled, maps[level])
            is_top = level == len(maps) - 1
            inputs = [maps[level], below] if is_top else [maps[level], descending[level], below]
            outputs.append(fusion(inputs))
        return outputs


class BiFPN(PyramidNeck):
    """1x1 projections, then ``num_layers`` bi-directional layers.

    Args:
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        num_layers: Number of bi-directional layers.
        separable: Depth-wise separable convolutions, as in the paper, or full 3x3 ones.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``num_layers`` is below 1 or a number of channels is not positive.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        num_layers: int = 3,
        separable: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        if num_layers < 1:
            raise ConfigError(f"BiFPN: num_layers must be at least 1, got {num_layers}")
        self.projections = self.make_projections(device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            BiFPNLayer(self.num_levels, out_channels, separable, device=device, dtype=dtype)
            for _ in range(num_layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Adds equal fusion weights to the base's initialization."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, WeightedFusion):
                nn.init.ones_(module.weight)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Projects, then fuses top-down and bottom-up ``num_layers`` times."""
        maps = [projection(f) for projection, f in zip(self.projections, features)]
        for layer in self.layers:
            maps = layer(maps)
        return maps
