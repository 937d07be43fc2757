"""HS-FPN element by element, from section 3.3's text and equations (1) and (2).

Loops over pixels, and nothing of torch but indexing, sums and products; one image, maps (C, H, W).
It reads the weights of the module under test from its state dict and shares no code with it.
"""

import math

import torch
from torch import Tensor

from tests.reference.scconv import Weights, convolution


def transposed_convolution(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3, stride 2, every input pixel spread around (2y, 2x): (C, H, W) -> (O, 2H, 2W)."""
    _, height, width = features.shape
    result = torch.zeros(weight.shape[1], 2 * height, 2 * width, dtype=features.dtype)
    for y in range(height):
        for x in range(width):
            for ky in range(3):
                for kx in range(3):
                    row, column = 2 * y + ky - 1, 2 * x + kx - 1
                    if 0 <= row < 2 * height and 0 <= column < 2 * width:
                        taps = weight[:, :, ky, kx]
                        result[:, row, column] += (features[:, y, x, None] * taps).sum(0)
    return result + bias[:, None, None]


def bilinear(features: Tensor, height: int, width: int) -> Tensor:
    """Pixels are areas with their values in the middle, and the border's value goes on outside."""
    _, old_height, old_width = features.shape

    def neighbors(index: int, new: int, old: int) -> tuple[int, int, float]:
        position = max(0.0, (index + 0.5) * old / new - 0.5)
        first = min(int(position), old - 1)
        return first, min(first + 1, old - 1), position - first

    result = torch.zeros(features.shape[0], height, width, dtype=features.dtype)
    for y in range(height):
        top, bottom, down = neighbors(y, height, old_height)
        for x in range(width):
            left, right, across = neighbors(x, width, old_width)
            upper = features[:, top, left] * (1 - across) + features[:, top, right] * across
            lower = features[:, bottom, left] * (1 - across) + features[:, bottom, right] * across
            result[:, y, x] = upper * (1 - down) + lower * down
    return result


def channel_attention(features: Tensor, weights: Weights, prefix: str) -> Tensor:
    """(C, H, W) -> (C,), with one scalar at a time."""
    squeeze = weights[f"{prefix}.squeeze.weight"][:, :, 0, 0].tolist()
    expand = weights[f"{prefix}.expand.weight"][:, :, 0, 0].tolist()
    means = [sum(channel.flatten().tolist()) / channel.numel() for channel in features]
    peaks = [max(channel.flatten().tolist()) for channel in features]
    logits = [0.0] * len(means)
    for pooled in (means, peaks):
        hidden = [max(0.0, sum(w * p for w, p in zip(row, pooled))) for row in squeeze]
        for channel, row in enumerate(expand):
            logits[channel] += sum(w * h for w, h in zip(row, hidden))
    return torch.tensor([1 / (1 + math.exp(-logit)) for logit in logits], dtype=features.dtype)


def group_norm(features: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """(C, H, W) -> (C, H, W), the population variance of each group, epsilon 1e-5."""
    per_group = features.shape[0] // groups
    result = torch.zeros_like(features)
    for channel in range(features.shape[0]):
        start = channel // per_group * per_group
        group = features[start : start + per_group]
        mean = group.sum() / group.numel()
        variance = ((group - mean) ** 2).sum() / group.numel()
        normalized = (features[channel] - mean) / (variance + 1e-5) ** 0.5
        result[channel] = normalized * weight[channel] + bias[channel]
    return result


def hs_fpn(maps: list[Tensor], weights: Weights, groups: int, cascade: str) -> list[Tensor]:
    """HS-FPN of one image: maps (C_l, H_l, W_l), highest resolution first -> (C, H_l, W_l)."""
    selected = []
    for level, features in enumerate(maps):
        prefix = f"selections.{level}"
        attention = channel_attention(features, weights, f"{prefix}.attention")
        kernel, bias = weights[f"{prefix}.projection.weight"], weights[f"{prefix}.projection.bias"]
        selected.append(convolution(features * attention[:, None, None], kernel, bias))

    fused = {len(maps) - 1: selected[-1]}
    high = selected[-1]
    for level in reversed(range(len(maps) - 1)):
        low, prefix = selected[level], f"fusions.{level}"
        if f"{prefix}.expand.weight" in weights:
            kernel, bias = weights[f"{prefix}.expand.weight"], weights[f"{prefix}.expand.bias"]
            high = transposed_convolution(high, kernel, bias)
        attended = bilinear(high, low.shape[1], low.shape[2])  # equation (1)
        attention = channel_attention(attended, weights, f"{prefix}.attention")
        fused[level] = low * attention[:, None, None] + attended  # equation (2)
        high = fused[level] if cascade == "fused" else attended

    outputs = []
    for level in range(len(maps)):
        smooth = convolution(fused[level], weights[f"outputs.{level}.0.weight"], None)
        scale, shift = weights[f"outputs.{level}.1.weight"], weights[f"outputs.{level}.1.bias"]
        outputs.append(group_norm(smooth, groups, scale, shift).clamp(min=0))
    return outputs
