"""The pre-norm transformer block of ViT, whose class attention can be had.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, figure 1.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from wbcnets.layers.self_attention import SelfAttention


class Block(nn.Module):
    """Self-attention and an MLP, each with a norm before and a residual: (B, N, C) -> (B, N, C).

    The parameters are named as in timm's ViT (``norm1``, ``attn``, ``norm2``, ``mlp``).

    Args:
        dim: C.
        num_heads: Heads, which share C evenly.
        mlp: What follows the attention, (B, N, C) -> (B, N, C).
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop: Dropout of the attention weights, in training.
        proj_drop: Dropout of the attention's output, in training.
        drop_path: Rate at which a sample passes a residual branch by, in training.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: The heads cannot share C evenly.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp: nn.Module,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, device=device, dtype=dtype)
        self.attn = SelfAttention(
            dim, num_heads, qkv_bias, attn_drop, proj_drop, device=device, dtype=dtype
        )
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the tokens after the block: (B, N, C) -> (B, N, C)."""
        return self._add(x, self.attn(self.norm1(x)))

    def forward_with_class_attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens after the block, and what the first token attends to.

        Returns:
            Tokens (B, N, C), and attention (B, heads, N), which sums to 1 over N.
        """
        attended, attention = self.attn.forward_with_class_attention(self.norm1(x))
        return self._add(x, attended), attention

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path1(attended)
        return x + self.drop_path2(self.mlp(self.norm2(x)))
