"""Efficient channel attention (ECA): weights from the averages of the k nearest channels.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR
2020, equations 10 and 12. ResNeXt-CC has it after every down-sampling (section "Feature enhancement
module based on down-sampling", equation 2).
"""

from math import log2

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


def eca_kernel_size(channels: int, gamma: float = 2.0, beta: float = 1.0) -> int:
    """Returns the number of neighboring channels that a channel's weight sees, odd.

    ``|log2(C) / gamma + beta / gamma|``, truncated, and plus 1 if that is even, as in ECA-Net's
    code. With gamma 2 and beta 1: 3 for 64 channels, 5 for 256, 512 and 1,024, 7 for 2,048.

    Raises:
        ConfigError: if there are no channels, or gamma is not positive.
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
        channels: C.
        kernel_size: Odd size of the kernel; None for ``eca_kernel_size(channels)``.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if there are no channels, or the kernel's size is even.
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
                f"EfficientChannelAttention: kernel_size={size} must be odd; omit it to compute "
                "it from the number of channels"
            )
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map with its channels weighed by numbers in (0, 1)."""
        averages = x.mean(dim=(2, 3)).unsqueeze(1)
        weights = torch.sigmoid(self.conv(averages)).squeeze(1)
        return x * weights[:, :, None, None].to(x.dtype)
