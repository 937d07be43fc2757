"""Multi-head self-attention over tokens, with the class token's attention on demand.

Equations 5 to 9 of the SCKansformer paper; equations 3 to 8 of the convolutional sparse ViT paper.

Differences from the papers:

- Queries are scaled by the width of one head, as in every ViT whose weights load here. Equation 5
  of the SCKansformer paper reads as the width of the whole layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.ops.autocast import widened

Grid = tuple[int, int]


class MultiHeadAttention(nn.Module):
    """Base of the attention layers: a subclass projects tokens to queries, keys and values.

    It sets ``num_heads``, ``scale`` and ``attn_drop_rate``, and adds the modules ``proj`` and
    ``proj_drop`` for the output.
    """

    num_heads: int
    scale: float
    attn_drop_rate: float
    proj: nn.Module
    proj_drop: nn.Module

    def project(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each (B, heads, tokens, C / heads)."""
        raise NotImplementedError(f"{type(self).__name__} does not define project")

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Returns the attended tokens, (B, N, C) -> (B, N, C).

        Args:
            x: The tokens.
            grid: Height and width of the map that the tokens form; None if they form no map.
        """
        return self._attend(*self.project(x, grid))

    def forward_with_class_attention(
        self, x: Tensor, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens and the attention of the first token.

        Only one row of each attention map is computed, so no (N, N) map exists.

        Returns:
            Tokens (B, N, C), and attention (B, heads, keys) in [0, 1], which sums to 1 over keys.
        """
        query, key, value = self.project(x, grid)
        row = (query[:, :, :1] * self.scale) @ key.transpose(-2, -1)
        row = widened(row)
        return self._attend(query, key, value), row.softmax(dim=-1).squeeze(2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dropout = self.attn_drop_rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=self.scale
        )
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


class SelfAttention(MultiHeadAttention):
    """Every token attends to every token: (B, N, C) -> (B, N, C).

    The parameters are named as in timm's ViT (``qkv``, ``proj``), whose weights fit.

    Args:
        dim: C.
        num_heads: Heads, which divide C.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if the heads do not divide C.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = head_width("SelfAttention", dim, num_heads) ** -0.5
        self.attn_drop_rate = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def project(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each (B, heads, N, C / heads)."""
        # (B, N, 3 C) -> (3, B, heads, N, C / heads)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        return query, key, value


def head_width(layer: str, dim: int, num_heads: int) -> int:
    """Returns the width of one head.

    Raises:
        ConfigError: if the heads do not divide the width of the layer.
    """
    if num_heads < 1 or dim < 1 or dim % num_heads:
        raise ConfigError(
            f"{layer}: num_heads={num_heads} does not divide dim={dim}; use a number that does"
        )
    return dim // num_heads
