"""Pre-norm transformer block with access to the class token's attention.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, figure 1.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from wbcnets.layers.self_attention import Grid, MultiHeadAttention
from wbcnets.ops.inplace import add_


class Block(nn.Module):
    """Attention and an MLP, each with a norm before it and a residual: (B, N, C) -> (B, N, C).

    The parameters are named as in timm's ViT (``norm1``, ``attn``, ``norm2``, ``mlp``).

    Args:
        dim: C.
        attn: The attention layer, of width C.
        mlp: The layer after the attention, (B, N, C) -> (B, N, C).
        drop_path: Probability that a sample skips a residual branch in training.
        norm_eps: Epsilon of the norms.
        device: Device of the norms' parameters.
        dtype: Type of the norms' parameters.
    """

    def __init__(
        self,
        dim: int,
        attn: MultiHeadAttention,
        mlp: nn.Module,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps, device=device, dtype=dtype)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Returns the tokens after the block; see ``MultiHeadAttention`` for the grid."""
        return self._add(x, self.attn(self.norm1(x), grid))

    def forward_with_class_attention(
        self, x: Tensor, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the tokens after the block, and the first token's attention (B, heads, keys)."""
        attended, attention = self.attn.forward_with_class_attention(self.norm1(x), grid)
        return self._add(x, attended), attention

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path1(attended)
        return add_(x, self.drop_path2(self.mlp(self.norm2(x))))
