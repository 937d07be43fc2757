"""The released SCKansformer as one plain function of its tensors, by their released names.

Written from the equations of the paper and from what the released code is known to compute: hard
gates on sample deviations, a softmax over all pooled channels, squeeze-and-excitation, B-splines by
the Cox-de Boor recursion. Shares no code with the model; evaluation mode; images (B, 3, H, W).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def spatial_reconstruction(x: Tensor, weights: Weights, groups: int) -> Tensor:
    gamma = weights["patch_embed.new_SCConv.SRU.gn.gamma"]
    beta = weights["patch_embed.new_SCConv.SRU.gn.beta"]
    normalized = torch.empty_like(x)
    size = x.shape[1] // groups
    for image in range(x.shape[0]):
        for start in range(0, x.shape[1], size):
            part = x[image, start : start + size]
            normalized[image, start : start + size] = (part - part.mean()) / (part.std() + 1e-10)
    normalized = normalized * gamma + beta
    weight = 1 / (1 + torch.exp(-normalized * gamma / gamma.sum()))
    informative, redundant = x * (weight >= 0.5), x * (weight < 0.5)
    half = x.shape[1] // 2
    upper = informative[:, :half] + redundant[:, half:]
    lower = informative[:, half:] + redundant[:, :half]
    return torch.cat([upper, lower], dim=1)


def channel_reconstruction(x: Tensor, weights: Weights) -> Tensor:
    named = {
        name: weights[f"patch_embed.new_SCConv.CRU.{name}.weight"]
        for name in ("squeeze1", "squeeze2", "GWC", "PWC1", "PWC2")
    }
    bias = weights["patch_embed.new_SCConv.CRU.GWC.bias"]
    half = x.shape[1] // 2
    upper = F.conv2d(x[:, :half], named["squeeze1"])
    lower = F.conv2d(x[:, half:], named["squeeze2"])
    rich = F.conv2d(upper, named["GWC"], bias, padding=1, groups=2) + F.conv2d(upper, named["PWC1"])
    cheap = torch.cat([F.conv2d(lower, named["PWC2"]), lower], dim=1)
    both = torch.cat([rich, cheap], dim=1)
    powers = torch.exp(both.mean(dim=(2, 3)))
    shares = powers / powers.sum(dim=1, keepdim=True)
    both = both * shares[:, :, None, None]
    return both[:, : x.shape[1]] + both[:, x.shape[1] :]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centerd = x - x.mean(dim=-1, keepdim=True)
    variance = centerd.square().mean(dim=-1, keepdim=True)
    scaled = centerd / torch.sqrt(variance + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def batch_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    def column(part: str) -> Tensor:
        return weights[f"{name}.{part}"][:, None, None]

    scaled = (x - column("running_mean")) / torch.sqrt(column("running_var") + 1e-5)
    return scaled * column("weight") + column("bias")


def attention(x: Tensor, weights: Weights, name: str, heads: int) -> Tensor:
    width = x.shape[2] // heads
    parts = linear(x, weights, f"{name}.qkv").split(x.shape[2], dim=2)
    outputs = []
    for head in range(heads):
        query, key, value = (part[:, :, head * width : (head + 1) * width] for part in parts)
        scores = query @ key.transpose(1, 2) / math.sqrt(width)
        outputs.append(torch.softmax(scores, dim=-1) @ value)
    return linear(torch.cat(outputs, dim=2), weights, f"{name}.proj")


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def global_local(tokens: Tensor, weights: Weights, heads: int) -> Tensor:
    normalized = layer_norm(tokens, weights, "cnn_block.attention_norm")
    tokens = tokens + attention(normalized, weights, "cnn_block.attn", heads)
    side = math.isqrt(tokens.shape[1] - 1)
    x = image = tokens[:, 1:].transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
    name = "cnn_block.conv.layers"
    x = batch_norm(F.conv2d(x, weights[f"{name}.0.weight"]), weights, f"{name}.1")
    x = x * hard_sigmoid(x)
    x = F.conv2d(x, weights[f"{name}.3.weight"], padding=1, groups=x.shape[1])
    x = batch_norm(x, weights, f"{name}.4")
    x = x * hard_sigmoid(x)
    hidden = linear(x.mean(dim=(2, 3)), weights, f"{name}.6.fc1").clamp(min=0)
    x = x * hard_sigmoid(linear(hidden, weights, f"{name}.6.fc2"))[:, :, None, None]
    x = image + batch_norm(F.conv2d(x, weights[f"{name}.7.weight"]), weights, f"{name}.8")
    return torch.cat([tokens[:, :1], x.reshape(*x.shape[:2], -1).transpose(1, 2)], dim=1)


def spline_bases(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """Cox-de Boor: (N, I) and knots (I, K) -> (N, I, K - 1 - order)."""
    x = x[:, :, None]
    bases = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for degree in range(1, order + 1):
        first, last = knots[:, : -degree - 1], knots[:, degree:-1]
        next_first, next_last = knots[:, 1:-degree], knots[:, degree + 1 :]
        rising = (x - first) / (last - first) * bases[:, :, :-1]
        falling = (next_last - x) / (next_last - next_first) * bases[:, :, 1:]
        bases = rising + falling
    return bases


def kan(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Two KAN layers of cubic splines, equations 2 to 4: (N, I) -> (N, O)."""
    for layer in (f"{name}.layers.0", f"{name}.layers.1"):
        base = (x / (1 + torch.exp(-x))) @ weights[f"{layer}.base_weight"].T
        scaler = weights[f"{layer}.spline_scaler"]
        coefficients = weights[f"{layer}.spline_weight"] * scaler[:, :, None]
        bases = spline_bases(x, weights[f"{layer}.grid"], order=3)
        x = base + torch.einsum("nij,oij->no", bases, coefficients)
    return x


def sckansformer(
    images: Tensor, weights: Weights, heads: int, depth: int, groups: int = 16
) -> Tensor:
    """Logits: (B, 3, H, W) -> (B, classes)."""
    kernel = weights["patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = channel_reconstruction(spatial_reconstruction(x, weights, groups), weights)
    patches = x.reshape(*x.shape[:2], -1).transpose(1, 2)
    class_token = weights["cls_token"].repeat(len(images), 1, 1)
    tokens = torch.cat([class_token, patches], dim=1) + weights["pos_embed"]
    tokens = global_local(tokens, weights, heads)
    for block in (f"blocks.{place}" for place in range(depth)):
        normalized = layer_norm(tokens, weights, f"{block}.norm1")
        tokens = tokens + attention(normalized, weights, f"{block}.attn", heads)
        rows = layer_norm(tokens, weights, f"{block}.norm2").reshape(-1, tokens.shape[2])
        tokens = tokens + kan(rows, weights, f"{block}.kan").reshape(tokens.shape)
    return kan(layer_norm(tokens, weights, "norm")[:, 0], weights, "head")
