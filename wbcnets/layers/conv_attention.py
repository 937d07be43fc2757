"""Self-attention whose queries, keys and values come from depth-wise convolutions.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.2 (equations 3 to 8) and table 5 ("Conv. Proj."); the projection itself is
that of Wu et al., "CvT: Introducing Convolutions to Vision Transformers", arXiv:2103.15808.

Differences from the paper:
- Equation 6 divides by the square root of a head's width, CvT's released code by that of the whole
  layer's. CvT's weights were trained with the latter, which is the default here;
  ``scale_by="head_dim"`` is the equation.
- The shapes printed at equations 6 and 7 are read as A: (N + 1, N + 1) and I': (N + 1, d_k).
- Tokens that are no map (those that sparse attention keeps) are each seen alone: a kernel's center
  on the token, zeros around it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError

Grid = tuple[int, int]
SCALES = ("embed_dim", "head_dim")


class ConvProjection(nn.Module):
    """Depth-wise convolution, batch norm and linear layer: a map of tokens as projected rows.

    Args:
        dim: C, the width of a token.
        kernel_size: Side of the convolution's kernel, odd.
        stride: Stride of the convolution.
        bias: Whether the linear layer has a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim < 1 or stride < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(
                "ConvProjection: dim and stride must be at least 1 and kernel_size an odd number, "
                f"got dim={dim}, stride={stride}, kernel_size={kernel_size}"
            )
        self.conv = nn.Conv2d(
            dim,
            dim,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=dim,
            bias=False,
            device=device,
            dtype=dtype,
        )
        self.bn = nn.BatchNorm2d(dim, device=device, dtype=dtype)
        self.linear = nn.Linear(dim, dim, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, prefix: Tensor) -> Tensor:
        """Projects a map, or several small ones, and the tokens that no convolution sees.

        Args:
            x: (B * n, C, H, W); the rows of n maps of one sample follow one another.
            prefix: (B, P, C); P may be 0.

        Returns:
            (B, P + n * H' * W', C).
        """
        # Not flatten(2).transpose(1, 2): on its way back, the gradient of a batch of one would get
        # strides that PyTorch's batch norm reads wrongly on CPUs (seen with 2.15)
        tokens = self.bn(self.conv(x)).permute(0, 2, 3, 1)
        tokens = tokens.reshape(prefix.shape[0], -1, prefix.shape[2])
        return self.linear(torch.cat([prefix, tokens], dim=1))


class ConvAttention(nn.Module):
    """Multi-head self-attention over a map of tokens: (B, P + N, C) -> (B, P + N, C).

    Args:
        dim: C.
        num_heads: Heads, which share C evenly.
        kernel_size: Side of the kernels, odd.
        kv_stride: Stride of the convolutions of keys and values.
        qkv_bias: Whether the linear layers of queries, keys and values have a bias.
        num_prefix_tokens: P, the first tokens, which pass the convolutions by (a class token).
        scale_by: "embed_dim" divides by the root of C, "head_dim" by that of a head's width.
        attn_drop: Dropout of the attention weights, in training.
        proj_drop: Dropout of the output, in training.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: The heads cannot share C evenly, or the scale is unknown.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        kernel_size: int = 3,
        kv_stride: int = 2,
        qkv_bias: bool = True,
        num_prefix_tokens: int = 0,
        scale_by: str = "embed_dim",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim < 1 or dim % num_heads:
            raise ConfigError(
                f"ConvAttention: num_heads={num_heads} cannot share dim={dim} evenly; "
                "use a number of heads that divides it"
            )
        if scale_by not in SCALES:
            raise ConfigError(f"ConvAttention: scale_by={scale_by!r}: use one of {list(SCALES)}")
        self.num_heads = num_heads
        self.kv_stride = kv_stride
        self.num_prefix_tokens = num_prefix_tokens
        self.scale = (dim if scale_by == "embed_dim" else dim // num_heads) ** -0.5
        self.attn_drop_rate = attn_drop
        self.query = ConvProjection(dim, kernel_size, 1, qkv_bias, device=device, dtype=dtype)
        self.key = ConvProjection(dim, kernel_size, kv_stride, qkv_bias, device=device, dtype=dtype)
        self.value = ConvProjection(
            dim, kernel_size, kv_stride, qkv_bias, device=device, dtype=dtype
        )
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Returns the attended tokens: (B, P + N, C) -> (B, P + N, C).

        Args:
            x: The tokens; the last N are a map in rows.
            grid: Height and width of the map, H * W = N. None where the tokens are no map: each is
                then seen alone, with zeros around it, and the stride is without effect.
        """
        return self._attend(*self._project(x, grid))

    def forward_with_class_attention(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens, and what the first token attends to.

        One row of each attention map, so that no (N, N) map is ever made.

        Returns:
            Tokens (B, P + N, C), and attention (B, heads, P + M) in [0, 1], which sums to 1 over
            the P + M keys; the last M are a map of ``ceil(H / kv_stride)`` rows.
        """
        query, key, value = self._project(x, grid)
        row = (query[:, :, :1] * self.scale) @ key.transpose(-2, -1)
        row = row.to(torch.promote_types(row.dtype, torch.float32))
        return self._attend(query, key, value), row.softmax(dim=-1).squeeze(2)

    def _project(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor, Tensor]:
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        if grid is None:
            maps = patches.reshape(-1, patches.shape[2], 1, 1)
        else:
            maps = patches.unflatten(1, grid).permute(0, 3, 1, 2)
        return (
            self._split_heads(self.query(maps, prefix)),
            self._split_heads(self.key(maps, prefix)),
            self._split_heads(self.value(maps, prefix)),
        )

    def _split_heads(self, x: Tensor) -> Tensor:
        # (B, N, C) -> (B, heads, N, C / heads)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dropout = self.attn_drop_rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=self.scale
        )
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))
