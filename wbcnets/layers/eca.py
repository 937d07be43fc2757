"""Efficient channel attention (section "Feature enhancement module based on down-sampling").

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR
2020, equations 10 and 12; in ResNeXt-CC after every down-sampling, equation 2. A channel's weight
comes from the averages of its k nearest channels.
"""

from math import log2

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


def eca_kernel_size(channels: int, gamma: float = 2.0, beta: float = 1.0) -> int:
    """How many neighboring channels a channel's weight sees: an odd number from 1.

    ``|log2(C) / gamma + beta / gamma|``, where it is no odd number the next larger one after
    cutting off its fraction, as in ECA-Net's code. With gamma 2 and beta 1: 3 for 64 channels, 5
    for 256, 512 and 1,024, 7 for 2,048.

    Raises:
        ConfigError: There are no channels, or gamma is not positive.
    """
    if channels < 1 or gamma <= 0:
        raise ConfigError(
            f"eca_kernel_size: channels must be at least 1 and gamma positive, got "
            f"channels={channels}, gamma={gamma}"
        )
    size = int(abs((log2(channels) + beta) / gamma))
    return size if size % 2 else size + 1


class EfficientChannelAttention(nn.Module):
    """Weighs channels by a convolution over their averages: (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C; decides the kernel's size by `eca_kernel_size`.
        kernel_size: An odd size of one's own.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: There are no channels, or the kernel's size is even.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = eca_kernel_size(channels) if kernel_size is None else kernel_size
        if size < 1 or size % 2 == 0:
            raise ConfigError(
                f"EfficientChannelAttention: kernel_size={size} must be odd; leave it out to have "
                "it from the number of channels"
            )
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map with its channels weighed by numbers in (0, 1)."""
        averages = x.mean(dim=(2, 3)).unsqueeze(1)
        weights = torch.sigmoid(self.conv(averages)).squeeze(1)
        return x * weights[:, :, None, None].to(x.dtype)
