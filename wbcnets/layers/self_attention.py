"""Multi-head self-attention over tokens, with the class token's attention on demand.

Equations 5 to 9 of the SCKansformer paper; equations 3 to 8 of the convolutional sparse ViT paper.

Differences from the papers: queries are scaled by the width of one head, as in every ViT whose
weights are loaded here; equation 5's ``d`` reads as the width of the whole layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError


class SelfAttention(nn.Module):
    """Every token attends to every token: (B, N, C) -> (B, N, C).

    The parameters are named as in timm's ViT (``qkv``, ``proj``), whose weights fit.

    Args:
        dim: C.
        num_heads: Heads, which share C evenly.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop: Dropout of the attention weights, in training.
        proj_drop: Dropout of the output, in training.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: The heads cannot share C evenly.
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
        if num_heads < 1 or dim < 1 or dim % num_heads:
            raise ConfigError(
                f"SelfAttention: num_heads={num_heads} cannot share dim={dim} evenly; "
                "use a number of heads that divides it"
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.attn_drop_rate = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attended tokens: (B, N, C) -> (B, N, C)."""
        return self._attend(*self._project(x))

    def forward_with_class_attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens, and what the first token attends to.

        One row of each attention map, so that no (N, N) map is ever made.

        Returns:
            Tokens (B, N, C), and attention (B, heads, N) in [0, 1], which sums to 1 over N.
        """
        query, key, value = self._project(x)
        row = (query[:, :, :1] * self.scale) @ key.transpose(-2, -1)
        row = row.to(torch.promote_types(row.dtype, torch.float32))
        return self._attend(query, key, value), row.softmax(dim=-1).squeeze(2)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (B, N, 3 C) -> (3, B, heads, N, C / heads)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dropout = self.attn_drop_rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))
