"""Self-attention whose queries, keys and values come from depth-wise convolutions.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.2 (equations 3 to 8) and table 5 ("Conv. Proj."). The projection is that of
Wu et al., "CvT: Introducing Convolutions to Vision Transformers", arXiv:2103.15808.

Differences from the paper:

- Equation 6 divides by the square root of a head's width, CvT's released code by that of the whole
  layer's. The default follows the code, with which CvT's weights were trained;
  ``scale_by="head_dim"`` is the equation.
- The shapes printed at equations 6 and 7 are read as A: (N + 1, N + 1) and I': (N + 1, d_k).
- Tokens that form no map, such as those that sparse attention keeps, are convolved one by one: each
  sits at the center of a kernel and has zeros around it.
"""

from functools import partial

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.self_attention import Grid, MultiHeadAttention, head_width
from wbcnets.layers.token_map import map_to_tokens, tokens_to_map

SCALES = ("embed_dim", "head_dim")


class ConvProjection(nn.Module):
    """Depth-wise convolution, batch norm and linear layer: a map of tokens -> projected rows.

    Args:
        dim: C, the width of a token.
        kernel_size: Side of the convolution's kernel, odd.
        stride: Stride of the convolution.
        bias: Whether the linear layer has a bias.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a size is out of range.
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

    def forward(self, x: Tensor, prefix: Tensor, num_maps: int = 1) -> Tensor:
        """Projects a map, or several small ones, and the tokens that skip the convolution.

        Args:
            x: (B * n, C, H, W); the n maps of a sample follow one another.
            prefix: (B, P, C); P may be 0.
            num_maps: n, the maps of a sample.

        Returns:
            (B, P + n * H' * W', C).
        """
        tokens = map_to_tokens(self.bn(self.conv(x)))
        # Not -1, which an empty batch leaves open
        tokens = tokens.reshape(prefix.shape[0], num_maps * tokens.shape[1], prefix.shape[2])
        return self.linear(torch.cat([prefix, tokens], dim=1))


class ConvAttention(MultiHeadAttention):
    """Multi-head self-attention over a map of tokens: (B, P + N, C) -> (B, P + N, C).

    The last N tokens form a map, H * W = N. With ``grid=None`` they form none: each is convolved
    alone, and the stride has no effect. The class attention has P + M keys; the last M form a map
    of ``ceil(H / kv_stride)`` rows.

    Args:
        dim: C.
        num_heads: Heads, which divide C.
        kernel_size: Side of the kernels, odd.
        kv_stride: Stride of the convolutions of keys and values.
        qkv_bias: Whether the linear layers of queries, keys and values have a bias.
        num_prefix_tokens: P, the first tokens, which skip the convolutions (a class token).
        scale_by: "embed_dim" divides by the square root of C, "head_dim" by that of C / heads.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if the heads do not divide C, or the scale is unknown.
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
        width = head_width("ConvAttention", dim, num_heads)
        if scale_by not in SCALES:
            raise ConfigError(f"ConvAttention: scale_by={scale_by!r}: use one of {list(SCALES)}")
        self.num_heads = num_heads
        self.kv_stride = kv_stride
        self.num_prefix_tokens = num_prefix_tokens
        self.scale = (dim if scale_by == "embed_dim" else width) ** -0.5
        self.attn_drop_rate = attn_drop
        projection = partial(ConvProjection, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.query = projection(kernel_size)
        self.key = projection(kernel_size, kv_stride)
        self.value = projection(kernel_size, kv_stride)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def project(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each (B, heads, tokens, C / heads)."""
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        if grid is None:
            num_maps, maps = patches.shape[1], patches.reshape(-1, patches.shape[2], 1, 1)
        else:
            num_maps, maps = 1, tokens_to_map(patches, grid)
        query, key, value = (
            # (B, N, C) -> (B, heads, N, C / heads)
            projection(maps, prefix, num_maps).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return query, key, value
