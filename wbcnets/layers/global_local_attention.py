"""Global-local attention: attention over all tokens, then convolution among neighboring patches.

Chen et al., "SCKansformer: Fine-Grained Classification of Bone Marrow Cells via Kansformer Backbone
and Hierarchical Attention Mechanisms", section III-C, equations 5 to 17.

Differences from the paper, all of them the released code's:

* Equation 10 writes h-swish as x * sigmoid(x), which is SiLU. Here it is x * ReLU6(x + 3) / 6, what
  the name stands for; ``act_layer=torch.nn.SiLU`` gives the equation to the letter.
* Equation 14 is a bare depth-wise convolution; here batch norm and h-swish follow it.
* After these, a squeeze-and-excitation (ratio 4, hard sigmoid) weighs the channels, of which the
  text says nothing; ``squeeze_excite=False`` leaves it out. The stated 54 million parameters need
  it.
* The local part and the attention each have a residual connection; equations 11 to 17 show none.
* No convolution has a bias, for a batch norm follows each.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.layers.self_attention import SelfAttention
from wbcnets.layers.token_map import map_to_tokens, tokens_to_map

LARGEST_HALF_INPUT = 256.0


class SqueezeExcite(nn.Module):
    """Weighs each channel by what the averages of all say: (B, C, H, W) -> (B, C, H, W).

    Runs in its parameters' type, also under autocast, where it costs nothing.

    Args:
        channels: C.
        reduction: The bottleneck has ``max(1, C // reduction)`` channels.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: ``channels`` or ``reduction`` is below 1.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ConfigError(
                "SqueezeExcite: channels and reduction must be at least 1, got "
                f"channels={channels}, reduction={reduction}"
            )
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Returns the weighed map, in the place of `x` where the caller has no more use for it."""
        pooled = x.mean(dim=(2, 3)).to(self.fc1.weight.dtype)
        if x.device.type == "meta":
            return x * self._weights(pooled)
        with torch.autocast(x.device.type, enabled=False):
            weights = self._weights(pooled)
            in_place = overwrite and weights.dtype == x.dtype
            return x.mul_(weights) if in_place else x * weights

    def _weights(self, pooled: Tensor) -> Tensor:
        """(B, C) -> (B, C, 1, 1), in [0, 1]."""
        return self.gate(self.fc2(self.act(self.fc1(pooled))))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Local features of a map by depth-wise convolution: (B, C, H, W) -> (B, C, H, W).

    Equations 13 to 15: widen, depth-wise 3x3, narrow, each with batch norm, plus the map itself.
    Nothing normalizes the map beforehand, so that under autocast large values are scaled down for
    the convolutions and the result scaled up again, in float32.

    Args:
        dim: C.
        expand_ratio: By how much the first convolution widens the map.
        squeeze_excite: Weigh the widened channels by squeeze-and-excitation.
        squeeze_ratio: By how much the squeeze-and-excitation narrows them.
        act_layer: Makes the activation.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A number is below 1.
    """

    def __init__(
        self,
        dim: int,
        expand_ratio: float = 4.0,
        squeeze_excite: bool = True,
        squeeze_ratio: int = 4,
        act_layer: type[nn.Module] = nn.Hardswish,
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

        def convolution(inputs: int, outputs: int, size: int, groups: int = 1) -> nn.Conv2d:
            return nn.Conv2d(
                inputs,
                outputs,
                size,
                padding=size // 2,
                groups=groups,
                bias=False,
                device=device,
                dtype=dtype,
            )

        self.expand = convolution(dim, hidden, 1)
        self.expand_norm = nn.BatchNorm2d(hidden, device=device, dtype=dtype)
        self.expand_act = act_layer()
        self.depthwise = convolution(hidden, hidden, 3, groups=hidden)
        self.depthwise_norm = nn.BatchNorm2d(hidden, device=device, dtype=dtype)
        self.depthwise_act = act_layer()
        self.squeeze_excite: nn.Module = nn.Identity()
        if squeeze_excite:
            self.squeeze_excite = SqueezeExcite(hidden, squeeze_ratio, device=device, dtype=dtype)
        self.project = convolution(hidden, dim, 1)
        self.project_norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map with what its neighborhoods tell added."""
        wide = convolve(self.expand, x)
        wide = activate(self.expand_act, normalize(self.expand_norm, wide))
        wide = convolve(self.depthwise, wide)
        wide = activate(self.depthwise_act, normalize(self.depthwise_norm, wide))
        if isinstance(self.squeeze_excite, SqueezeExcite):
            wide = self.squeeze_excite(wide, overwrite=may_overwrite())
        return x + normalize(self.project_norm, convolve(self.project, wide))


class GlobalLocalAttention(nn.Module):
    """x + MSA(LN(x)), then the local part on the patches: (B, 1 + N, C) -> (B, 1 + N, C).

    The class token, the first one, takes part in the attention and passes by the local part.

    Args:
        dim: C.
        num_heads: Heads of the attention, which share C evenly.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop: Dropout of the attention weights, in training.
        proj_drop: Dropout of the attention's output, in training.
        expand_ratio: By how much the local part widens the map.
        squeeze_excite: Whether the local part weighs its channels by squeeze-and-excitation.
        squeeze_ratio: By how much the squeeze-and-excitation narrows them.
        act_layer: Makes the local part's activation.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: The heads cannot share C evenly, or a number is below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 12,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        expand_ratio: float = 4.0,
        squeeze_excite: bool = True,
        squeeze_ratio: int = 4,
        act_layer: type[nn.Module] = nn.Hardswish,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.attn = SelfAttention(
            dim, num_heads, qkv_bias, attn_drop, proj_drop, device=device, dtype=dtype
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6, device=device, dtype=dtype)
        self.local = InvertedResidual(
            dim, expand_ratio, squeeze_excite, squeeze_ratio, act_layer, device=device, dtype=dtype
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns the attended tokens.

        Args:
            tokens: The class token and N patches row by row, (B, 1 + N, C).
            grid: Height and width of the map of patches; their product is N.

        Returns:
            (B, 1 + N, C).

        Raises:
            ConfigError: The grid has another number of patches.
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


def normalize(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The batch norm of a map that nobody else needs: (B, C, H, W) -> (B, C, H, W).

    Without gradients and with fixed statistics it overwrites the map, as making room for another of
    the widened size costs more than the arithmetic.
    """
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None or x.dtype != mean.dtype:
        return norm(x)
    if not may_overwrite():
        return norm(x)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


def activate(activation: nn.Module, x: Tensor) -> Tensor:
    """The activation of a map that nobody else needs, likewise: (B, C, H, W) -> (B, C, H, W)."""
    if isinstance(activation, nn.Hardswish) and may_overwrite():
        return F.hardswish(x, inplace=True)
    return activation(x)


def may_overwrite() -> bool:
    """Whether neither gradients nor a recorded graph need what lies in between."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not torch.is_grad_enabled() and not recorded


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution, which under autocast neither overflows nor loses digits of large values.

    Half precision ends at 65,504, and a sum over 3,072 channels gets there soon: an input whose
    largest value is above 256 is divided down to 256 first, and the result, in float32, multiplied
    again. Other inputs are not touched.
    """
    if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
        return convolution(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.detach().abs().amax() / LARGEST_HALF_INPUT).clamp(min=1.0)
    return convolution(wide / scale).to(wide.dtype) * scale
