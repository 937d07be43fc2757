"""Patches in rows, and as a map."""

from torch import Tensor


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches in rows as a map: (B, H * W, C) -> (B, C, H, W).

    Both functions move one axis, and merge or split no moved one. What says the same,
    ``flatten(2).transpose(1, 2)``, gives the gradient of a batch of one strides with which the
    CPU's batch norm of PyTorch 2.15 returns wrong gradients.
    """
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """A map as patches in rows: (B, C, H, W) -> (B, H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
