"""Convolutional token embedding: an image or a map of tokens -> a smaller map of wider tokens.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.1, equations 1 and 2; after Wu et al., "CvT: Introducing Convolutions to
Vision Transformers", arXiv:2103.15808.

Differences from the paper:

- Equations 1 and 2 print height and width as exact quotients. Here they are rounded down, as in any
  convolution.
"""

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError


class ConvEmbed(nn.Module):
    """Convolution and layer norm per token: (B, in_chans, H, W) -> (B, embed_dim, H', W').

    Args:
        in_chans: Channels of the input.
        embed_dim: Width of a token.
        kernel_size: Side of a patch, s in equations 1 and 2.
        stride: Distance between patches, s - o; they overlap if it is below the side.
        padding: Zeros around the input, p.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a size is out of range.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 64,
        kernel_size: int = 7,
        stride: int = 4,
        padding: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(in_chans, embed_dim, kernel_size, stride) < 1 or padding < 0:
            raise ConfigError(
                "ConvEmbed: in_chans, embed_dim, kernel_size and stride must be at least 1 and "
                f"padding at least 0, got in_chans={in_chans}, embed_dim={embed_dim}, "
                f"kernel_size={kernel_size}, stride={stride}, padding={padding}"
            )
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size, stride, padding, device=device, dtype=dtype
        )
        self.norm = nn.LayerNorm(embed_dim, device=device, dtype=dtype)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the map of tokens (equations 1 and 2)."""
        border = 2 * self.padding - self.kernel_size
        return (height + border) // self.stride + 1, (width + border) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map of tokens: (B, in_chans, H, W) -> (B, embed_dim, H', W')."""
        tokens = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens.permute(0, 3, 1, 2)
