"""Deformable attention by ``grid_sample``, level by level: the reference and the export path."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# (H_l, W_l) of every level
Shapes = Sequence[tuple[int, int]]


def grid_sample_attention(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Samples the map of each level, the heads as a part of the batch."""
    batch, _, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    # grid_sample puts -1 and 1 on the map's outer edges
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # (B * M, Q, L, P, 2)
    sampled = []
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        level_map = maps[:, :, start : start + height * width].unflatten(-1, (height, width))
        start += height * width
        sampled.append(
            F.grid_sample(
                level_map,
                grids[:, :, level],
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
        )
    stacked = torch.stack(sampled, dim=-2)  # (B * M, D, Q, L, P)
    weights = attention_weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * M, 1, Q, L, P)
    attended = (stacked * weights).sum(dim=(-2, -1))  # (B * M, D, Q)
    return attended.reshape(batch, heads * dim, queries).transpose(1, 2)
