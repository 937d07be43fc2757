"""Multi-scale deformable attention, one sample at a time: Zhu et al. 2021, equation 3."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """(B, S, M, D), (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D)."""
    batch, queries, heads, _, points = attention_weights.shape
    outputs = []
    for image in range(batch):
        for query in range(queries):
            for head in range(heads):
                total = value.new_zeros(value.shape[-1])
                start = 0
                for level, (height, width) in enumerate(spatial_shapes):
                    level_map = value[image, start : start + height * width, head]
                    start += height * width
                    for point in range(points):
                        x, y = sampling_locations[image, query, head, level, point]
                        sample = bilinear(level_map, height, width, x, y)
                        total = total + attention_weights[image, query, head, level, point] * sample
                outputs.append(total)
    return torch.stack(outputs).view(batch, queries, -1)


def bilinear(level_map: Tensor, height: int, width: int, x: Tensor, y: Tensor) -> Tensor:
    """One point of one map, (H * W, D) -> (D,); the map's edges are at 0 and 1; zeros outside."""
    column, row = x * width - 0.5, y * height - 0.5
    if column.isnan() or row.isnan():
        return level_map[0] * (column + row)
    left, top = column.detach().floor(), row.detach().floor()
    # On a pixel's center the slope to the right and downwards counts, as in grid_sample
    rows = ((top, top + 1 - row), (top + 1, row - top))
    columns = ((left, left + 1 - column), (left + 1, column - left))
    sample = level_map.new_zeros(level_map.shape[1])
    for i, row_share in rows:
        for j, column_share in columns:
            if 0 <= i < height and 0 <= j < width:
                sample = sample + row_share * column_share * level_map[int(i) * width + int(j)]
    return sample
