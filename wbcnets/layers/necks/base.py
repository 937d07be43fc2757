"""Base class of the necks, and the convolutions that they share."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError


def group_norm(
    channels: int,
    max_groups: int = 32,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.GroupNorm:
    """Returns a GroupNorm with the most groups that divide the channels.

    Args:
        channels: Number of channels, at least 1.
        max_groups: Upper limit of the number of groups.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``channels`` or ``max_groups`` is below 1.
    """
    if channels < 1 or max_groups < 1:
        raise ConfigError(
            "GroupNorm needs at least 1 channel and 1 group, "
            f"got channels={channels}, max_groups={max_groups}"
        )
    most = min(channels, max_groups)
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return _GroupNorm(groups, channels, device=device, dtype=dtype)


class _GroupNorm(nn.GroupNorm):
    """A GroupNorm that also takes groups of one value, which become the bias.

    A narrow model has them on the deepest map of a small image; PyTorch's own check refuses them.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    bias: bool = False,
    relu: bool = False,
    max_groups: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Returns a convolution with padding ``kernel_size // 2``, a GroupNorm and optionally a ReLU.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernel, odd.
        stride: Stride of the convolution.
        bias: Whether the convolution has a bias besides the norm's.
        relu: Whether a ReLU follows.
        max_groups: Upper limit of the norm's groups, see ``group_norm``.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
            device=device,
            dtype=dtype,
        ),
        group_norm(out_channels, max_groups, device=device, dtype=dtype),
    ]
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def resize_like(
    source: Tensor, target: Tensor, interpolation: Literal["nearest", "bilinear"] = "bilinear"
) -> Tensor:
    """Resizes a map to the size of another: (B, C, H, W) -> (B, C, H1, W1).

    Args:
        source: The map, (B, C, H, W).
        target: A map (B, _, H1, W1); only its size is used.
        interpolation: "nearest", or "bilinear" without aligned corners.
    """
    align_corners = False if interpolation == "bilinear" else None
    return F.interpolate(
        source, size=target.shape[-2:], mode=interpolation, align_corners=align_corners
    )


class PyramidNeck(nn.Module):
    """Base of all necks: backbone maps in, maps of one width out, highest resolution first.

    Args:
        in_channels: Channels of each backbone map.
        out_channels: Channels of every output map.

    Attributes:
        in_channels: The same, as a tuple.
        out_channels: The same.
        num_levels: Number of output maps.

    Raises:
        ConfigError: if there is no level, or a number of channels is below 1.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.num_levels = len(self.in_channels)
        if not self.in_channels or min(*self.in_channels, out_channels) < 1:
            raise ConfigError(
                f"{type(self).__name__}: in_channels needs one positive number per backbone map "
                f"and out_channels a positive number, got in_channels={self.in_channels}, "
                f"out_channels={out_channels}"
            )

    def make_projections(self, **options: Any) -> nn.ModuleList:
        """Returns a 1x1 ``conv_norm`` to the output width for each backbone map."""
        return nn.ModuleList(
            conv_norm(channels, self.out_channels, 1, **options) for channels in self.in_channels
        )

    def make_outputs(self, *, count: int | None = None, **options: Any) -> nn.ModuleList:
        """Returns 3x3 ``conv_norm`` layers of the output width, by default one for each map."""
        return nn.ModuleList(
            conv_norm(self.out_channels, self.out_channels, 3, **options)
            for _ in range(len(self.in_channels) if count is None else count)
        )

    def reset_parameters(self) -> None:
        """Draws Xavier-uniform weights as in Deformable-DETR, zeroes biases and resets norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight, gain=1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()

    def check_features(self, features: Sequence[Tensor]) -> None:
        """Compares the number of maps and their channels with those of the neck.

        Args:
            features: One map per level, each (B, C_l, H_l, W_l).

        Raises:
            ValueError: if the number of maps, a map's rank or its channels differ.
        """
        found = [tuple(feature.shape) for feature in features]
        channels = tuple(feature.shape[1] if feature.dim() == 4 else None for feature in features)
        if channels != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} takes {len(self.in_channels)} maps (B, C, H, W) with "
                f"C = {self.in_channels}, highest resolution first; got {len(found)} of shapes "
                f"{found}. Build it with in_channels equal to the backbone's channels."
            )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Returns the pyramid: ``num_levels`` maps (B, out_channels, H_l, W_l).

        Args:
            features: One map (B, C_l, H_l, W_l) per level, highest resolution first.

        Raises:
            ValueError: if the maps do not match ``in_channels``.
        """
        self.check_features(features)
        return self.fuse(features)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Returns the pyramid of checked maps."""
        raise NotImplementedError(f"{type(self).__name__} does not define fuse")
