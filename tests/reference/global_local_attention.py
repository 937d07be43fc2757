"""The global-local attention block step by step, from section III-C; one image, tokens (1 + N, C).

Batch norm in evaluation mode, which needs no other image. Shares no code with the layer.
"""

import math

import torch
from torch import Tensor

from tests.reference.scconv import Weights, convolution


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """(N, I) -> (N, O), a row at a time."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    rows = [(weight * row).sum(dim=1) for row in x]
    result = torch.stack(rows)
    return result if bias is None else result + bias


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """(N, C) -> (N, C), epsilon 1e-6."""
    result = torch.zeros_like(x)
    for place, row in enumerate(x):
        mean = row.sum() / row.numel()
        variance = ((row - mean) ** 2).sum() / row.numel()
        result[place] = (row - mean) / (variance + 1e-6) ** 0.5
    return result * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def self_attention(x: Tensor, weights: Weights, name: str, heads: int) -> Tensor:
    """Equations 5 to 9: (N, C) -> (N, C)."""
    tokens, dim = x.shape
    query, key, value = linear(x, weights, f"{name}.qkv").split(dim, dim=1)
    width = dim // heads
    attended = torch.zeros_like(x)
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        for place in range(tokens):
            scores = (query[place, columns] * key[:, columns]).sum(dim=1) / math.sqrt(width)
            powers = (scores - scores.max()).exp()  # equation 8
            attended[place, columns] = ((powers / powers.sum())[:, None] * value[:, columns]).sum(
                dim=0
            )
    return linear(attended, weights, f"{name}.proj")


def batch_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """(C, H, W) -> (C, H, W) by the running statistics, epsilon 1e-5."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale = weights[f"{name}.weight"] / (variance + 1e-5) ** 0.5
    return (x - mean[:, None, None]) * scale[:, None, None] + weights[f"{name}.bias"][:, None, None]


def hard_swish(x: Tensor) -> Tensor:
    """x * ReLU6(x + 3) / 6."""
    return x * (x + 3).clamp(0, 6) / 6


def local_part(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Equations 13 to 15 and the released code's additions: (C, H, W) -> (C, H, W)."""
    wide = convolution(x, weights[f"{name}.expand.weight"])
    wide = hard_swish(batch_norm(wide, weights, f"{name}.expand_norm"))
    wide = convolution(wide, weights[f"{name}.depthwise.weight"], groups=wide.shape[0])
    wide = hard_swish(batch_norm(wide, weights, f"{name}.depthwise_norm"))
    if f"{name}.squeeze_excite.fc1.weight" in weights:
        pooled = torch.stack([channel.sum() / channel.numel() for channel in wide])
        hidden = linear(pooled[None], weights, f"{name}.squeeze_excite.fc1").clamp(min=0)
        gates = (linear(hidden, weights, f"{name}.squeeze_excite.fc2")[0] + 3).clamp(0, 6) / 6
        wide = wide * gates[:, None, None]
    narrow = convolution(wide, weights[f"{name}.project.weight"])
    return x + batch_norm(narrow, weights, f"{name}.project_norm")


def global_local_attention(
    tokens: Tensor, weights: Weights, heads: int, grid: tuple[int, int], prefix: str = ""
) -> Tensor:
    """(1 + N, C) -> (1 + N, C)."""
    normalized = layer_norm(tokens, weights, f"{prefix}norm")
    tokens = tokens + self_attention(normalized, weights, f"{prefix}attn", heads)
    height, width = grid
    image = torch.zeros(tokens.shape[1], height, width, dtype=tokens.dtype)
    for y in range(height):
        for x in range(width):
            image[:, y, x] = tokens[1 + y * width + x]
    image = local_part(image, weights, f"{prefix}local")
    patches = [image[:, y, x] for y in range(height) for x in range(width)]
    return torch.stack([tokens[0], *patches])
