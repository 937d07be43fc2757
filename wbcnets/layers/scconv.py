"""Spatial and channel reconstruction convolution (SCConv).

Chen et al., "SCKansformer: Fine-Grained Classification of Bone Marrow Cells via Kansformer Backbone
and Hierarchical Attention Mechanisms", section III-D, equations 18 to 20, after Li et al., "SCConv:
Spatial and Channel Reconstruction Convolution for Feature Redundancy" (CVPR 2023). The SRU splits a
map by how informative each value is and adds the two parts crosswise. The CRU replaces a
convolution by a split, two cheap transforms and a weighted sum.

Differences from the paper:

- The SRU's gates. The text gives a weight of 1 above the threshold and 0 below, so no gradient
  reaches gamma and beta. ``gate="soft"``, the default, is the gate of the common SCConv module: a
  value above the threshold is fully informative (1 and 0), below it both parts take the weight
  itself, so gamma and beta train. ``gate="hard"`` is SCKansformer's released code: 1 and 0 at the
  threshold or above, 0 and 1 below, on values normalized by the sample standard deviation plus
  1e-10 in place of equation 18's square root of variance plus epsilon. Its gamma and beta are
  frozen, because nothing can train them.
- Equation 19 divides by the sum of gamma, which training can drive to 0. The mean of gamma is kept
  at least 1e-4 away from 0, with its sign.
- The CRU's fusion. The text, like SKNet, takes a softmax over the two pooled values of a channel
  (``fusion="pairwise"``, the default). SCKansformer's released code and the common module take it
  over all 2 C pooled values (``fusion="joint"``), which shrinks the result by a factor of about C.
- If its groups do not divide the squeezed channels, the group-wise convolution uses the greatest
  common divisor as groups. By default, no multiple of 16 is affected.
"""

from contextlib import nullcontext
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.ops.autocast import autocast_off, is_autocast_to_float16, widened

GATES = ("soft", "hard")
FUSIONS = ("joint", "pairwise")
MINIMAL_MEAN_SCALE = 1e-4
RELEASED_EPSILON = 1e-10


class SRU(nn.Module):
    """Spatial reconstruction unit: (B, C, H, W) -> (B, C, H, W).

    The gates are computed in float32 or wider. Under autocast the result is float32 too, like that
    of a norm.

    Args:
        channels: C, an even number.
        num_groups: Groups of the group norm; they divide C.
        threshold: Weight above which a value is informative, in (0, 1).
        gate: "soft" trains gamma and beta; "hard" is the released code's and does not.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if C is odd or not a multiple of ``num_groups``, or another argument is out of
            range.
    """

    def __init__(
        self,
        channels: int,
        num_groups: int = 16,
        threshold: float = 0.5,
        gate: str = "soft",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or channels < 2 or channels % 2 or channels % num_groups:
            raise ConfigError(
                f"SRU: channels={channels} must be even and a multiple of num_groups={num_groups}; "
                "use another width, or a num_groups that divides it"
            )
        if not 0.0 < threshold < 1.0:
            raise ConfigError(
                f"SRU: threshold={threshold} is not between 0 and 1; the paper uses 0.5"
            )
        if gate not in GATES:
            raise ConfigError(f"SRU: gate={gate!r}: use one of {list(GATES)}")
        self.threshold = threshold
        self.gate = gate
        self.norm = nn.GroupNorm(num_groups, channels, device=device, dtype=dtype)
        if gate == "hard":
            self.norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map with its informative and its redundant part added crosswise."""
        informative, redundant = self._separate(x)
        first, second = informative.chunk(2, dim=1)
        third, fourth = redundant.chunk(2, dim=1)
        return torch.cat([first + fourth, second + third], dim=1)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gates of the two parts, each (B, C, H, W) in [0, 1]."""
        weight, above = self._weights(x)
        if self.gate == "hard":
            return above.to(weight.dtype), (~above).to(weight.dtype)
        return weight.masked_fill(above, 1.0), weight.masked_fill(above, 0.0)

    def _separate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``x`` times each of its gates, without the products by 0 and 1."""
        weight, above = self._weights(x)
        x = x.to(torch.promote_types(x.dtype, self.norm.weight.dtype))
        if self.gate == "hard":
            return x.masked_fill(~above, 0.0), x.masked_fill(above, 0.0)
        weighed = weight.to(x.dtype) * x
        return torch.where(above, x, weighed), weighed.masked_fill(above, 0.0)

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns equation 20's weights, in [0, 1], and whether each value is informative."""
        wide = widened(x)
        weight = torch.sigmoid(self._normalize(wide) * self._gamma_fractions(wide.dtype))
        hard = self.gate == "hard"
        return weight, weight >= self.threshold if hard else weight > self.threshold

    def _normalize(self, x: Tensor) -> Tensor:
        """Equation 18, or its form in the released code: (B, C, H, W) -> (B, C, H, W)."""
        gamma, beta = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
        if self.gate == "soft":
            return F.group_norm(x, self.norm.num_groups, gamma, beta, self.norm.eps)
        groups = x.unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        centered = groups - groups.mean(dim=2, keepdim=True)
        count = max(groups.shape[2] - 1, 1)
        deviation = (centered.square().sum(dim=2, keepdim=True) / count).sqrt()
        normalized = (centered / (deviation + RELEASED_EPSILON)).view_as(x)
        return normalized * gamma[:, None, None] + beta[:, None, None]

    def _gamma_fractions(self, dtype: torch.dtype) -> Tensor:
        """Returns equation 19, each gamma over the sum of all: (C, 1, 1)."""
        gamma = self.norm.weight.to(dtype)
        total = gamma.sum()
        floor = torch.full_like(total, MINIMAL_MEAN_SCALE * self.norm.num_channels)
        total = torch.where(total.abs() < floor, torch.copysign(floor, total), total)
        return (gamma / total)[:, None, None]


class CRU(nn.Module):
    """Channel reconstruction unit: (B, C, H, W) -> (B, C, H, W).

    Runs in its parameters' type under autocast to float16, which cannot hold its sums.

    Args:
        channels: C.
        alpha: Fraction of the channels that the rich transform sees, in (0, 1).
        squeeze_ratio: Factor by which a 1x1 convolution narrows each of the two parts.
        conv_groups: Groups of the group-wise convolution, if enough channels are left.
        kernel_size: Kernel of the group-wise convolution, an odd number.
        fusion: "pairwise" takes a softmax over the two pooled values of each channel, "joint" over
            all 2 C of them.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if an argument is out of range, or leaves one of the two parts empty.
    """

    def __init__(
        self,
        channels: int,
        alpha: float = 0.5,
        squeeze_ratio: int = 2,
        conv_groups: int = 2,
        kernel_size: int = 3,
        fusion: str = "pairwise",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        upper = int(alpha * channels)
        lower = channels - upper
        if upper < 1 or lower < 1:
            raise ConfigError(
                f"CRU: alpha={alpha} leaves {upper} and {lower} of {channels} channels; both "
                "parts need at least 1"
            )
        if squeeze_ratio < 1 or conv_groups < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(
                "CRU: squeeze_ratio and conv_groups must be at least 1 and kernel_size odd, got "
                f"squeeze_ratio={squeeze_ratio}, conv_groups={conv_groups}, "
                f"kernel_size={kernel_size}"
            )
        if fusion not in FUSIONS:
            raise ConfigError(f"CRU: fusion={fusion!r}: use one of {list(FUSIONS)}")
        self.parts = (upper, lower)
        self.fusion = fusion
        upper_squeezed = max(1, upper // squeeze_ratio)
        lower_squeezed = max(1, lower // squeeze_ratio)

        def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 1, bias=False, device=device, dtype=dtype)

        self.squeeze_upper = pointwise(upper, upper_squeezed)
        self.squeeze_lower = pointwise(lower, lower_squeezed)
        self.group_conv = nn.Conv2d(
            upper_squeezed,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=gcd(conv_groups, upper_squeezed, channels),
            device=device,
            dtype=dtype,
        )
        self.point_conv_upper = pointwise(upper_squeezed, channels)
        self.point_conv_lower = pointwise(lower_squeezed, channels - lower_squeezed)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map with its redundant channels rebuilt from cheaper ones."""
        x = x.to(self.squeeze_upper.weight.dtype)
        with autocast_off(x) if is_autocast_to_float16(x) else nullcontext():
            return self._fuse(*self._transform(x))

    def _transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rich and the cheap transform, each (B, C, H, W) -> (B, C, H, W)."""
        upper, lower = x.split(self.parts, dim=1)
        upper, lower = self.squeeze_upper(upper), self.squeeze_lower(lower)
        rich = self.group_conv(upper) + self.point_conv_upper(upper)
        cheap = torch.cat([self.point_conv_lower(lower), lower], dim=1)
        return rich, cheap

    def _fuse(self, rich: Tensor, cheap: Tensor) -> Tensor:
        """Returns the weighted sum of the two: (B, C, H, W) twice -> (B, C, H, W)."""
        wide = torch.promote_types(rich.dtype, torch.float32)
        pooled = torch.stack([part.mean(dim=(2, 3), dtype=wide) for part in (rich, cheap)], dim=1)
        if self.fusion == "pairwise":
            weights = pooled.softmax(dim=1)
        else:
            weights = pooled.flatten(1).softmax(dim=1).view_as(pooled)
        rich_weight, cheap_weight = weights.to(rich.dtype)[..., None, None].unbind(dim=1)
        return torch.addcmul(rich_weight * rich, cheap_weight, cheap)


class SCConv(nn.Module):
    """SRU, then CRU: (B, C, H, W) -> (B, C, H, W).

    Under autocast to float16 the result is float32, like that of a norm.

    Args:
        channels: C, an even number.
        num_groups: See ``SRU``.
        threshold: See ``SRU``.
        gate: See ``SRU``.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **options: Further keywords of ``CRU``.

    Raises:
        ConfigError: if C is odd or not a multiple of ``num_groups``, or another argument is out of
            range.
    """

    def __init__(
        self,
        channels: int,
        num_groups: int = 16,
        threshold: float = 0.5,
        gate: str = "soft",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.sru = SRU(channels, num_groups, threshold, gate, device=device, dtype=dtype)
        self.cru = CRU(channels, **options, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the refined map: (B, C, H, W) -> (B, C, H, W)."""
        return self.cru(self.sru(x))
