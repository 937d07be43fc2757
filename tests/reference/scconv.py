"""SRU, CRU and SCConv value by value, from section III-D's text and equations 18 to 20.

Loops over channels and pixels, and nothing of torch but indexing, sums and products; one image,
(C, H, W). Weights are read by name from the state dict of the module under test.
"""

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def convolution(
    features: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Stride 1, zero padding that keeps the size: (C, H, W) -> (O, H, W)."""
    _, height, width = features.shape
    outputs, inputs_per_group, size, _ = weight.shape
    result = torch.zeros(outputs, height, width, dtype=features.dtype)
    for output in range(outputs):
        start = output // (outputs // groups) * inputs_per_group
        group = features[start : start + inputs_per_group]
        for y in range(height):
            for x in range(width):
                for ky in range(size):
                    for kx in range(size):
                        row, column = y + ky - size // 2, x + kx - size // 2
                        if 0 <= row < height and 0 <= column < width:
                            taps = weight[output, :, ky, kx]
                            result[output, y, x] += (taps * group[:, row, column]).sum()
        if bias is not None:
            result[output] += bias[output]
    return result


def normalize_groups(
    features: Tensor, gamma: Tensor, beta: Tensor, groups: int, released: bool
) -> Tensor:
    """Equation 18; or the released code's sample deviation, with 1e-10 added to the root."""
    channels = features.shape[0]
    result = torch.zeros_like(features)
    for channel in range(channels):
        start = channel // (channels // groups) * (channels // groups)
        values = features[start : start + channels // groups].flatten().tolist()
        mean = sum(values) / len(values)
        squares = sum((value - mean) ** 2 for value in values)
        if released:
            deviation = math.sqrt(squares / (len(values) - 1)) + 1e-10
        else:
            deviation = math.sqrt(squares / len(values) + 1e-5)
        result[channel] = gamma[channel] * (features[channel] - mean) / deviation + beta[channel]
    return result


def sru(features: Tensor, weights: Weights, groups: int, gate: str, prefix: str = "") -> Tensor:
    """(C, H, W) -> (C, H, W)."""
    gamma, beta = weights[f"{prefix}norm.weight"], weights[f"{prefix}norm.bias"]
    normalized = normalize_groups(features, gamma, beta, groups, released=gate == "hard")
    total = sum(gamma.tolist())
    channels, height, width = features.shape
    informative, redundant = torch.zeros_like(features), torch.zeros_like(features)
    for channel in range(channels):
        share = float(gamma[channel]) / total  # equation 19
        for y in range(height):
            for x in range(width):
                value = float(features[channel, y, x])
                weight = 1 / (
                    1 + math.exp(-share * float(normalized[channel, y, x]))
                )  # equation 20
                if gate == "hard":
                    first, second = (1.0, 0.0) if weight >= 0.5 else (0.0, 1.0)
                else:
                    first, second = (1.0, 0.0) if weight > 0.5 else (weight, weight)
                informative[channel, y, x] = first * value
                redundant[channel, y, x] = second * value
    result = torch.zeros_like(features)
    for channel in range(channels):
        partner = (channel + channels // 2) % channels
        result[channel] = informative[channel] + redundant[partner]
    return result


def cru(features: Tensor, weights: Weights, fusion: str, prefix: str = "") -> Tensor:
    """(C, H, W) -> (C, H, W), the group-wise convolution in two groups."""
    named = {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    channels = features.shape[0]
    half = channels // 2
    upper = convolution(features[:half], named["squeeze_upper.weight"])
    lower = convolution(features[half:], named["squeeze_lower.weight"])
    kernel, bias = named["group_conv.weight"], named["group_conv.bias"]
    groups = upper.shape[0] // kernel.shape[1]
    rich = convolution(upper, kernel, bias, groups)
    rich = rich + convolution(upper, named["point_conv_upper.weight"])
    cheap = torch.cat([convolution(lower, named["point_conv_lower.weight"]), lower])

    pooled_rich = [math.exp(float(channel.sum()) / channel.numel()) for channel in rich]
    pooled_cheap = [math.exp(float(channel.sum()) / channel.numel()) for channel in cheap]
    result = torch.zeros_like(rich)
    for channel in range(channels):
        if fusion == "joint":
            total = sum(pooled_rich) + sum(pooled_cheap)
        else:
            total = pooled_rich[channel] + pooled_cheap[channel]
        first, second = pooled_rich[channel] / total, pooled_cheap[channel] / total
        result[channel] = first * rich[channel] + second * cheap[channel]
    return result


def scconv(
    features: Tensor,
    weights: Weights,
    groups: int = 16,
    gate: str = "soft",
    fusion: str = "pairwise",
    prefix: str = "",
) -> Tensor:
    """(C, H, W) -> (C, H, W)."""
    refined = sru(features, weights, groups, gate, f"{prefix}sru.")
    return cru(refined, weights, fusion, f"{prefix}cru.")
