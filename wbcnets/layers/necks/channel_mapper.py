"""The projection to a common width, and what every pyramid of this package shares.

`ChannelMapper` is the input projection of Deformable-DETR (Zhu et al., "Deformable DETR: Deformable
Transformers for End-to-End Object Detection", appendix A.4): a 1x1 convolution with GroupNorm per
backbone map, and further levels from 3x3 convolutions of stride 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


def group_norm(
    channels: int,
    max_groups: int = 32,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.GroupNorm:
    """A GroupNorm with the most groups that divide the channels, at most ``max_groups``.

    Args:
        channels: Number of channels, at least 1.
        max_groups: The number of groups where it divides ``channels``.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: If ``channels`` or ``max_groups`` is below 1.
    """
    if channels < 1 or max_groups < 1:
        raise ConfigError(
            "GroupNorm needs at least 1 channel and 1 group, "
            f"got channels={channels}, max_groups={max_groups}"
        )
    most = min(channels, max_groups)
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, device=device, dtype=dtype)


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
    """Convolution (padding ``kernel_size // 2``), GroupNorm, and ReLU where asked for.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Odd size of the kernel.
        stride: Stride of the convolution.
        bias: Whether the convolution has a bias beside the norm's.
        relu: Whether a ReLU follows.
        max_groups: Most groups of the norm, see `group_norm`.
        device: Where the parameters are made.
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
        ConfigError: If there is no level, or a number of channels is below 1.
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

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, as in Deformable-DETR's projection; new norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight, gain=1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()

    def check_features(self, features: Sequence[Tensor]) -> None:
        """Compares the number of maps and their channels with what the neck was built for.

        Args:
            features: One map per level, each (B, C_l, H_l, W_l).

        Raises:
            ValueError: If the number of maps, a map's rank or its channels differ.
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
        """Makes the pyramid.

        Args:
            features: One map (B, C_l, H_l, W_l) per level, highest resolution first.

        Returns:
            ``num_levels`` maps (B, out_channels, H_l, W_l).

        Raises:
            ValueError: If the maps are not those that the neck was built for.
        """
        self.check_features(features)
        return self.fuse(features)

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What each neck does with its checked maps."""
        raise NotImplementedError(f"{type(self).__name__} does not define fuse")


class ChannelMapper(PyramidNeck):
    """Deformable-DETR's input projection: no fusion between the levels.

    Per backbone map a 1x1 convolution with bias and GroupNorm(32). The first extra level is a 3x3
    convolution of stride 2 on the last backbone map, each further one on the extra level before it.

    Args:
        in_channels: Channels of each backbone map.
        out_channels: Channels of every output map.
        num_extra_levels: How many levels are added below the last one; the outputs are then
            ``len(in_channels) + num_extra_levels`` maps.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: If ``num_extra_levels`` is negative or the channels are not positive.
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
                f"ChannelMapper: num_extra_levels must be 0 or more, got {num_extra_levels}"
            )
        self.projections = nn.ModuleList(
            conv_norm(channels, out_channels, 1, bias=True, device=device, dtype=dtype)
            for channels in self.in_channels
        )
        self.extra_levels = nn.ModuleList(
            conv_norm(channels, out_channels, 3, stride=2, bias=True, device=device, dtype=dtype)
            for channels in (self.in_channels[-1], *[out_channels] * num_extra_levels)[
                :num_extra_levels
            ]
        )
        self.num_levels += num_extra_levels
        self.reset_parameters()

    def fuse(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Projects every map, and makes the extra levels."""
        outputs = [projection(f) for projection, f in zip(self.projections, features)]
        extra = features[-1]
        for level in self.extra_levels:
            extra = level(extra)
            outputs.append(extra)
        return outputs
