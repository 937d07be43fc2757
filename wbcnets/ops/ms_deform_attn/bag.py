"""Deformable attention as one weighted ``embedding_bag`` over the flattened values, for CPUs.

A bilinear sample is a weighted sum of four rows of the value table, and attention is a weighted sum
of samples. One query of one head is therefore one bag of 4 * L * P rows, whose weights are the
products of both. The table is read in place, and nothing of size Q * L * P * D is written.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.ops.ms_deform_attn.grid_sample import Shapes


def bag_attention(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Sums one bag of rows per query and head."""
    batch, tokens, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    rows, weights = _corner_rows(tokens, spatial_shapes, sampling_locations, attention_weights)
    attended = F.embedding_bag(
        rows.flatten(0, 2).flatten(1),
        value.reshape(batch * tokens * heads, dim),
        per_sample_weights=weights.flatten(0, 2).flatten(1),
        mode="sum",
    )
    return attended.view(batch, queries, heads * dim)


def _corner_rows(
    tokens: int,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns rows of the value table around each point, and weights, each (B, Q, M, L, P, 4)."""
    batch, _, heads = sampling_locations.shape[:3]
    device = sampling_locations.device
    # 32-bit rows halve the memory traffic of the index arithmetic, and of the backward's sort
    index_type = torch.int32 if batch * tokens * heads < 2**31 else torch.int64
    sizes = torch.tensor(
        [(width, height) for height, width in spatial_shapes], device=device, dtype=index_type
    )
    limits = sizes[:, None].to(sampling_locations.dtype)  # (L, 1, 2)

    # Pixel centers lie at integers. The clamp keeps huge coordinates from overflowing the integer
    # index. It changes no value, because everything is zero one pixel outside the map. It cuts at
    # -2: at -1, where the initial offsets of border tokens lie, the slope is not yet zero.
    positions = sampling_locations * limits - 0.5
    positions = torch.minimum(positions.clamp(min=-2), limits)
    low = positions.detach().floor()
    fraction = positions - low
    corners = torch.stack([low, low + 1])  # (2, B, Q, M, L, P, 2)
    inside = (corners >= 0) & (corners < limits)
    # Multiplied, not selected: a NaN coordinate must reach the output
    factors = torch.stack([1 - fraction, fraction]) * inside
    indices = torch.minimum(corners.to(index_type).clamp(min=0), sizes[:, None] - 1)

    areas = sizes.prod(dim=1, dtype=index_type)
    level_starts = areas.cumsum(dim=0, dtype=index_type) - areas
    image_starts = torch.arange(batch, device=device, dtype=index_type) * tokens
    column, row = indices.unbind(-1)
    starts = image_starts.view(-1, 1, 1, 1, 1) + level_starts.view(-1, 1)
    row_starts = row * sizes[:, :1] + starts  # (2, B, Q, M, L, P)
    head = torch.arange(heads, device=device, dtype=index_type).view(-1, 1, 1)
    x_factor, y_factor = factors.unbind(-1)
    y_factor = y_factor * attention_weights
    rows = [(row_starts[y] + column[x]) * heads + head for y in (0, 1) for x in (0, 1)]
    weights = [y_factor[y] * x_factor[x] for y in (0, 1) for x in (0, 1)]
    return torch.stack(rows, dim=-1), torch.stack(weights, dim=-1)
