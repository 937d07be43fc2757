"""Conversion between rows of tokens and maps.

Both functions move one axis and neither split nor merge a moved one. The equivalent
``flatten(2).transpose(1, 2)`` gives the gradient of a batch of one strides with which the CPU batch
norm of PyTorch 2.15 returns wrong gradients.
"""

from torch import Tensor


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
