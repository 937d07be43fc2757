"""Global-local attention: attention over all tokens, then convolution among neighboring patches.

Chen et al., "SCKansformer: Fine-Grained Classification of Bone Marrow Cells via Kansformer Backbone
and Hierarchical Attention Mechanisms", section III-C, equations 5 to 17.

Differences from the paper, all of them from its released code:

- Equation 10 writes h-swish as x * sigmoid(x), which is SiLU. Here it is x * ReLU6(x + 3) / 6, the
  function of that name; ``act_layer=torch.nn.SiLU`` gives the equation to the letter.
- Equation 14 is a bare depth-wise convolution; here batch norm and h-swish follow it.
- A squeeze-and-excitation (ratio 4, hard sigmoid) then weighs the channels. The text does not
  mention it, but the stated 54 million parameters need it. ``squeeze_excite=False`` removes it.
- The local part and the attention each have a residual connection; equations 11 to 17 show none.
- No convolution has a bias, because a batch norm follows each.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.channel_attention import ChannelBottleneck
from wbcnets.layers.self_attention import SelfAttention
from wbcnets.layers.token_map import map_to_tokens, tokens_to_map
from wbcnets.ops.autocast import AutocastSafeConv2d, autocast_off
from wbcnets.ops.inplace import InplaceBatchNorm2d, InplaceHardswish, multiply_


class SqueezeExcite(ChannelBottleneck):
    """Weighs each channel by the averages of all channels: (B, C, H, W) -> (B, C, H, W).

    Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018. Linear layers, unlike timm's module,
    because the released weights have them. It runs in its parameters' type even under autocast, and
    may overwrite its input when no gradients are needed. The arguments are those of
    ``ChannelBottleneck``.
    """

    def add_layers(self, channels: int, hidden: int, **dd: Any) -> None:
        """Adds two linear layers and their activations."""
        self.fc1 = nn.Linear(channels, hidden, **dd)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, channels, **dd)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighed map."""
        averages = x.mean(dim=(2, 3)).to(self.fc1.weight.dtype)
        with autocast_off(x):
            weights = self.gate(self.fc2(self.act(self.fc1(averages))))  # (B, C)
        return multiply_(x, weights.to(x.dtype)[:, :, None, None])


class InvertedResidual(nn.Module):
    """Local features of a map by depth-wise convolution: (B, C, H, W) -> (B, C, H, W).

    Equations 13 to 15: widen, depth-wise 3x3, narrow, each with batch norm; the map itself is added
    to the result. No norm precedes the convolutions, so in float16 they scale large inputs.

    Args:
        dim: C.
        expand_ratio: Width of the depth-wise convolution over C.
        squeeze_excite: Whether squeeze-and-excitation weighs the widened channels.
        squeeze_ratio: Reduction of the squeeze-and-excitation.
        act_layer: Class of the activation.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a number is below 1.
    """

    def __init__(
        self,
        dim: int,
        expand_ratio: float = 4.0,
        squeeze_excite: bool = True,
        squeeze_ratio: int = 4,
        act_layer: type[nn.Module] = InplaceHardswish,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim < 1 or expand_ratio < 1 or squeeze_ratio < 1:
            raise ConfigError(
                "InvertedResidual: dim, expand_ratio and squeeze_ratio must be at least 1, got "
                f"dim={dim}, expand_ratio={expand_ratio}, squeeze_ratio={squeeze_ratio}"
            )
        hidden = int(dim * expand_ratio)
        convolution = partial(AutocastSafeConv2d, bias=False, device=device, dtype=dtype)
        self.expand = convolution(dim, hidden, 1)
        self.expand_norm = InplaceBatchNorm2d(hidden, device=device, dtype=dtype)
        self.expand_act = act_layer()
        self.depthwise = convolution(hidden, hidden, 3, padding=1, groups=hidden)
        self.depthwise_norm = InplaceBatchNorm2d(hidden, device=device, dtype=dtype)
        self.depthwise_act = act_layer()
        self.squeeze_excite: nn.Module = nn.Identity()
        if squeeze_excite:
            self.squeeze_excite = SqueezeExcite(hidden, squeeze_ratio, device=device, dtype=dtype)
        self.project = convolution(hidden, dim, 1)
        self.project_norm = InplaceBatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map plus its local features."""
        wide = self.expand_act(self.expand_norm(self.expand(x)))  # equation 13
        wide = self.depthwise_act(self.depthwise_norm(self.depthwise(wide)))  # equation 14
        wide = self.squeeze_excite(wide)
        return x + self.project_norm(self.project(wide))  # equation 15


class GlobalLocalAttention(nn.Module):
    """x + MSA(LN(x)), then the local part on the patches: (B, 1 + N, C) -> (B, 1 + N, C).

    The class token, the first one, takes part in the attention and skips the local part.

    Args:
        dim: C.
        num_heads: Heads of the attention, which divide C.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the attention's output.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **options: Further keywords of ``InvertedResidual``.

    Raises:
        ConfigError: if the heads do not divide C, or a number is below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 12,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.attn = SelfAttention(
            dim, num_heads, qkv_bias, attn_drop, proj_drop, device=device, dtype=dtype
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6, device=device, dtype=dtype)
        self.local = InvertedResidual(dim, **options, device=device, dtype=dtype)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns the attended tokens, (B, 1 + N, C).

        Args:
            tokens: The class token and N patches row by row, (B, 1 + N, C).
            grid: Height and width of the map of patches; their product is N.

        Raises:
            ConfigError: if the number of tokens does not match the grid.
        """
        if tokens.ndim != 3 or tokens.shape[1] != 1 + grid[0] * grid[1]:
            raise ConfigError(
                f"GlobalLocalAttention: a grid of {grid[0]} x {grid[1]} patches needs tokens "
                f"(B, {1 + grid[0] * grid[1]}, C), the class token first, got {tuple(tokens.shape)}"
            )
        tokens = tokens + self.attn(self.norm(tokens))
        class_token, patches = tokens[:, :1], tokens[:, 1:]  # equation 11
        image = tokens_to_map(patches, grid)  # equation 12
        patches = map_to_tokens(self.local(image))  # equations 13 to 16
        return torch.cat([class_token.to(patches.dtype), patches], dim=1)  # equation 17
