"""Multi-scale deformable attention.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021,
equation 3 and appendix A.2; section 3.4 of the MFDS-DETR paper, equations 3 to 7. Parameter names
are those of the original code, so its weights load.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from wbcnets.layers.self_attention import head_width
from wbcnets.ops.ms_deform_attn import ms_deform_attn


class MultiScaleDeformableAttention(nn.Module):
    """Attention of every query to a few points around its reference, on every level.

    Args:
        embed_dim: Width of queries and values.
        num_heads: Heads; a divisor of ``embed_dim``.
        num_levels: Levels of the feature pyramid.
        num_points: Points sampled per head and level.
        backend: See ``wbcnets.ops.ms_deform_attn``; None chooses by device.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if ``num_heads`` does not divide ``embed_dim``.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        head_width("MultiScaleDeformableAttention", embed_dim, num_heads)
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.backend = backend
        linear = partial(nn.Linear, device=device, dtype=dtype)
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = linear(embed_dim, samples * 2)
        self.attention_weights = linear(embed_dim, samples)
        self.value_proj = linear(embed_dim, embed_dim)
        self.output_proj = linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Puts points on rays around the reference, one direction per head, with equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * steps[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)  # (M, L, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, C), (B, Q, L, 2 or 4), (B, S, C) -> (B, Q, C).

        Args:
            query: Queries with their position encoding added.
            reference_points: Per level, points (x, y) or boxes (cx, cy, w, h) in fractions of the
                padded map. Offsets are in pixels for points, in half box sizes for boxes.
            value: The levels' features, flattened and concatenated.
            spatial_shapes: (H_l, W_l) of every level.
            padding_mask: (B, S), True on padding; the value of such a token counts as zero.

        Raises:
            ValueError: if ``reference_points`` does not end in 2 or 4 numbers.
        """
        projected = self.value_proj(value)
        if padding_mask is not None:
            projected = projected.masked_fill(padding_mask[..., None], 0.0)
        projected = projected.unflatten(-1, (self.num_heads, -1))
        per_head = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*per_head, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(dim=-1)
        locations = self._sampling_locations(reference_points, offsets, spatial_shapes)
        sampled = ms_deform_attn(
            projected, spatial_shapes, locations, weights.unflatten(-1, per_head[1:]), self.backend
        )
        return self.output_proj(sampled)

    def _sampling_locations(
        self,
        reference_points: Tensor,
        offsets: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        offsets = offsets.to(torch.promote_types(reference_points.dtype, torch.float32))
        reference = reference_points[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 or 4)
        if reference_points.shape[-1] == 2:
            pixels = offsets.new_tensor(
                [(1 / width, 1 / height) for height, width in spatial_shapes]
            )
            return torch.addcmul(reference, offsets, pixels[:, None])
        if reference_points.shape[-1] == 4:
            centers, box_sizes = reference.split(2, dim=-1)
            return torch.addcmul(centers, offsets, box_sizes * (0.5 / self.num_points))
        raise ValueError(
            "reference_points must end in 2 (point) or 4 (box) numbers, got shape "
            f"{tuple(reference_points.shape)}"
        )
