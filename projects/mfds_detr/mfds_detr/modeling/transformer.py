"""The deformable transformer: encoder and decoder of MFDS-DETR.

Source: sections 3.4 and 3.5 of the MFDS-DETR paper; Zhu et al., "Deformable DETR", ICLR 2021, with
its iterative bounding box refinement and two-stage variants (appendix A.4). Parameter names are
those of the original Deformable-DETR code, so that its COCO weights load.

Boxes are (cx, cy, w, h) and points (x, y), in fractions of the image without its padding, and
stay in float32 under autocast: bfloat16 is off by more than 1 px in an image of 640 px.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfds_detr.modeling.position_encoding import sine_waves
from wbcnets.layers.ms_deform_attn import MultiScaleDeformableAttention
from wbcnets.ops.autocast import widened
from wbcnets.ops.dropout import dropout_add_, relu_dropout_

# A logit with zero sigmoid, loss and gradient that fits into half precision
_NEVER = -1e4


class Memory(NamedTuple):
    """The encoder's output, which the decoder attends to."""

    tokens: Tensor  # (B, S, C)
    padding_mask: Tensor | None  # (B, S), True on padding; None without padding
    spatial_shapes: list[tuple[int, int]]
    valid_ratios: Tensor  # (B, L, 2): fraction of each map's width and height without padding


class ScoredTokens(NamedTuple):
    """The first stage's answer for every token of the memory, without its boxes."""

    tokens: Tensor  # (B, S, C)
    logits: Tensor  # (B, S, K); padding is never an object
    anchors: Tensor  # (B, S, 4), logits of one square per token; infinite if it proposes nothing


class LayerSizes(NamedTuple):
    """The sizes that encoder and decoder layers share."""

    embed_dim: int = 256  # width of tokens and queries
    num_heads: int = 8
    feedforward_dim: int = 1024  # hidden width of the feed-forward network
    dropout: float = 0.1
    num_levels: int = 4
    num_points: int = 4  # sampling points per head and level

    def deformable_attention(self) -> MultiScaleDeformableAttention:
        """Creates an attention module of these sizes."""
        return MultiScaleDeformableAttention(
            self.embed_dim, self.num_heads, self.num_levels, self.num_points
        )


class FeedForwardLayer(nn.Module):
    """A layer that ends in a feed-forward network with ReLU, dropout and a residual.

    Args:
        sizes: The layer's sizes.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.linear1 = nn.Linear(sizes.embed_dim, sizes.feedforward_dim)
        self.linear2 = nn.Linear(sizes.feedforward_dim, sizes.embed_dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), with the residual added."""
        hidden = relu_dropout_(self.linear1(tokens), self.dropout.p, self.training)
        return self.add_residual(self.linear2(hidden), tokens)

    def add_residual(self, change: Tensor, residual: Tensor) -> Tensor:
        """``dropout(change) + residual``, (B, N, C); may overwrite the change."""
        return dropout_add_(change, residual, self.dropout.p, self.training)


class DeformableEncoderLayer(FeedForwardLayer):
    """Deformable self-attention and a feed-forward network, each with residual and post-norm.

    Args:
        sizes: The layer's sizes.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.self_attn = sizes.deformable_attention()
        self.norm1 = nn.LayerNorm(sizes.embed_dim)
        self.norm2 = nn.LayerNorm(sizes.embed_dim)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None,
    ) -> Tensor:
        """(B, S, C) -> (B, S, C) with reference points (B, S, L, 2)."""
        attended = self.self_attn(
            tokens + position, reference_points, tokens, spatial_shapes, padding_mask
        )
        tokens = self.norm1(self.add_residual(attended, tokens))
        return self.norm2(self.feed_forward(tokens))


class DeformableEncoder(nn.Module):
    """A stack of encoder layers, which may be empty (table 7).

    Args:
        layer: The layer to repeat.
        num_layers: Number of layers.
    """

    def __init__(self, layer: DeformableEncoderLayer, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, memory: Memory, position: Tensor) -> Memory:
        """Refines ``memory.tokens`` (B, S, C) with their position encoding (B, S, C)."""
        if not self.layers:
            return memory
        centers = _pixel_centers(memory.spatial_shapes, memory.valid_ratios)
        reference_points = centers[:, :, None] * memory.valid_ratios[:, None]
        tokens = memory.tokens
        for layer in self.layers:
            tokens = layer(
                tokens, position, reference_points, memory.spatial_shapes, memory.padding_mask
            )
        return memory._replace(tokens=tokens)


class DeformableDecoderLayer(FeedForwardLayer):
    """Self-attention among queries, deformable attention to the memory, a feed-forward network.

    Args:
        sizes: The layer's sizes.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.cross_attn = sizes.deformable_attention()
        self.norm1 = nn.LayerNorm(sizes.embed_dim)
        self.self_attn = nn.MultiheadAttention(
            sizes.embed_dim, sizes.num_heads, dropout=sizes.dropout, batch_first=True
        )
        self.norm2 = nn.LayerNorm(sizes.embed_dim)
        self.norm3 = nn.LayerNorm(sizes.embed_dim)

    def forward(
        self,
        target: Tensor,
        query_position: Tensor,
        reference_points: Tensor,
        memory: Memory,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, C) -> (B, Q, C) with reference points (B, Q, L, 2 or 4)."""
        queries = target + query_position
        attended, _ = self.self_attn(
            queries, queries, target, need_weights=False, attn_mask=attention_mask
        )
        target = self.norm2(self.add_residual(attended, target))
        attended = self.cross_attn(
            target + query_position,
            reference_points,
            memory.tokens,
            memory.spatial_shapes,
            memory.padding_mask,
        )
        target = self.norm1(self.add_residual(attended, target))
        return self.norm3(self.feed_forward(target))


class DeformableDecoder(nn.Module):
    """A stack of decoder layers; with ``bbox_embed``, each layer refines the reference boxes.

    Args:
        layer: The layer to repeat.
        num_layers: Number of layers.
    """

    def __init__(self, layer: DeformableDecoderLayer, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(
        self,
        target: Tensor,
        query_position: Tensor,
        reference_points: Tensor,
        memory: Memory,
        bbox_embed: nn.ModuleList | None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs of all layers, and the references that each layer started from.

        (B, Q, C), (B, Q, 2 or 4) -> (layers, B, Q, C), layers * (B, Q, 2 or 4). The references are
        a list, because refinement turns points into boxes after the first layer.
        """
        outputs, references = [], []
        for index, layer in enumerate(self.layers):
            references.append(reference_points)
            scale = memory.valid_ratios
            if reference_points.shape[-1] == 4:
                scale = torch.cat([scale, scale], dim=-1)
            target = layer(
                target,
                query_position,
                reference_points[:, :, None] * scale[:, None],
                memory,
                attention_mask,
            )
            outputs.append(target)
            if bbox_embed is not None:
                # Detached as in the original: each layer learns only its own correction
                reference_points = refine_boxes(bbox_embed[index](target), reference_points)
                reference_points = reference_points.detach()
        return torch.stack(outputs), references


class DeformableTransformer(nn.Module):
    """Encoder and decoder over the flattened feature levels.

    Args:
        sizes: The sizes of all layers.
        num_encoder_layers: Encoder layers, may be 0.
        num_decoder_layers: Decoder layers, at least 1.
        level_embed: Whether each level has a learned vector (table 9, "scale encoding").
        two_stage: Whether the queries start from the encoder's best proposals.
        encoder_levels: The coarsest levels that the encoder refines; 0 for all. The finest level
            has most of the tokens, and RT-DETR (Zhao et al., CVPR 2024) loses little without it.
    """

    def __init__(
        self,
        sizes: LayerSizes,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        level_embed: bool = True,
        two_stage: bool = False,
        encoder_levels: int = 0,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim = sizes.embed_dim
        self.two_stage = two_stage
        self.encoder_levels = encoder_levels or sizes.num_levels
        coarse = sizes._replace(num_levels=self.encoder_levels)
        self.encoder = DeformableEncoder(DeformableEncoderLayer(coarse), num_encoder_layers)
        self.decoder = DeformableDecoder(DeformableDecoderLayer(sizes), num_decoder_layers)
        # Only the encoder uses it; distributed training fails on parameters without a gradient
        embeds = level_embed and num_encoder_layers > 0
        self.level_embed = (
            nn.Parameter(torch.empty(sizes.num_levels, embed_dim)) if embeds else None
        )
        if two_stage:
            self.enc_output = nn.Linear(embed_dim, embed_dim)
            self.enc_output_norm = nn.LayerNorm(embed_dim)
            self.pos_trans = nn.Linear(embed_dim * 2, embed_dim * 2)
            self.pos_trans_norm = nn.LayerNorm(embed_dim * 2)
        else:
            self.reference_points = nn.Linear(embed_dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes every matrix by Xavier, then the deformable attentions in their own way."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)
        if not self.two_stage:
            nn.init.zeros_(self.reference_points.bias)

    def encode(
        self,
        features: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        positions: Sequence[Tensor],
    ) -> Memory:
        """Runs the encoder on feature maps.

        Args:
            features: L * (B, C, H_l, W_l).
            masks: L * (B, H_l, W_l), True on padding; None if no image is padded.
            positions: Position encodings in the shapes of the features.
        """
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)
        levels = [position.flatten(2).transpose(1, 2) for position in positions]
        if self.level_embed is not None:
            levels = [level + embed for level, embed in zip(levels, self.level_embed)]
        padding_mask = None
        valid_ratios = tokens.new_ones(len(tokens), len(features), 2, dtype=torch.float32)
        if masks is not None:
            padding_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)
            valid_ratios = torch.stack([_valid_ratio(mask) for mask in masks], dim=1)
        memory = Memory(
            tokens=tokens,
            padding_mask=padding_mask,
            spatial_shapes=[(feature.shape[2], feature.shape[3]) for feature in features],
            valid_ratios=valid_ratios,
        )
        return self._refine(memory, torch.cat(levels, dim=1))

    def _refine(self, memory: Memory, position: Tensor) -> Memory:
        """Runs the encoder on the coarsest levels; the tokens of the others stay as they are."""
        kept = len(memory.spatial_shapes) - self.encoder_levels
        if not kept:
            return self.encoder(memory, position)
        first = sum(height * width for height, width in memory.spatial_shapes[:kept])
        mask = memory.padding_mask
        coarse = Memory(
            tokens=memory.tokens[:, first:],
            padding_mask=None if mask is None else mask[:, first:],
            spatial_shapes=memory.spatial_shapes[kept:],
            valid_ratios=memory.valid_ratios[:, kept:],
        )
        refined = self.encoder(coarse, position[:, first:]).tokens
        return memory._replace(tokens=torch.cat([memory.tokens[:, :first], refined], dim=1))

    def score_tokens(self, memory: Memory, class_embed: nn.Module) -> ScoredTokens:
        """Returns a square and class logits for every token of the memory (first stage)."""
        anchors, usable = _grid_proposals(memory)
        tokens = memory.tokens.masked_fill(~usable[..., None], 0.0)
        tokens = self.enc_output_norm(self.enc_output(tokens))
        logits = class_embed(tokens)
        if memory.padding_mask is not None:
            logits = logits.masked_fill(memory.padding_mask[..., None], _NEVER)
        return ScoredTokens(tokens, logits, anchors)

    def decode(
        self,
        memory: Memory,
        query_embed: Tensor | None,
        proposal_boxes: Tensor | None,
        bbox_embed: nn.ModuleList | None,
        content: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the decoder on learned queries (Q, 2C) or on proposals (B, Q, 4).

        Args:
            memory: The encoder's output.
            query_embed: Learned queries.
            proposal_boxes: Boxes to start from.
            bbox_embed: The heads that refine boxes after each layer.
            content: Added to the queries' content, (B, Q, C).
            attention_mask: (Q, Q), True where a query must not look at another.

        Returns:
            Outputs (layers, B, Q, C) and the references that each layer started from.
        """
        if proposal_boxes is not None:
            reference_points = proposal_boxes
            encoded = self.pos_trans_norm(
                self.pos_trans(
                    _encode_boxes(reference_points, self.embed_dim).to(memory.tokens.dtype)
                )
            )
            query_position, target = encoded.split(self.embed_dim, dim=2)
            if content is not None:
                target = target + content
        elif query_embed is not None:
            queries = query_embed.expand(len(memory.tokens), -1, -1)
            query_position, target = queries.split(self.embed_dim, dim=2)
            reference_points = widened(self.reference_points(query_position)).sigmoid()
        else:
            raise ValueError("decode needs query_embed or proposal_boxes")
        return self.decoder(
            target, query_position, reference_points, memory, bbox_embed, attention_mask
        )


def inverse_sigmoid(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Returns the logit of a probability in float32, with p and 1 - p of at least ``epsilon``."""
    x = widened(x).clamp(min=0, max=1)
    return torch.log(x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon))


def refine_boxes(delta: Tensor, reference_points: Tensor) -> Tensor:
    """Adds a correction to references in logit space: (..., 4), (..., 2 or 4) -> (..., 4)."""
    logits = inverse_sigmoid(reference_points)
    if logits.shape[-1] == 2:
        logits = F.pad(logits, (0, 2))
    return (widened(delta) + logits).sigmoid()


def _valid_ratio(mask: Tensor) -> Tensor:
    """(B, H, W) -> (B, 2): the fractions of width and height that are image."""
    _, height, width = mask.shape
    valid_height = (~mask[:, :, 0]).sum(dim=1).float() / height
    valid_width = (~mask[:, 0, :]).sum(dim=1).float() / width
    return torch.stack([valid_width, valid_height], dim=-1)


def _pixel_centers(spatial_shapes: Sequence[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Returns the center (x, y) of every token in fractions of its image, (B, S, 2)."""
    device = valid_ratios.device
    centers = []
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=torch.float32, device=device) + 0.5
        x = torch.arange(width, dtype=torch.float32, device=device) + 0.5
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        pixels = torch.stack([grid_x, grid_y], dim=-1).view(1, -1, 2)
        extent = valid_ratios.new_tensor([width, height]) * valid_ratios[:, None, level]
        centers.append(pixels / extent)
    return torch.cat(centers, dim=1)


def _grid_proposals(memory: Memory) -> tuple[Tensor, Tensor]:
    """Returns one square per token: 5% of the image wide on the finest level, then doubling.

    Returns:
        Logits of the boxes (B, S, 4), infinite if unusable, and whether they are usable (B, S): the
        token is image, and its center is at least 1% away from every edge.
    """
    centers = _pixel_centers(memory.spatial_shapes, memory.valid_ratios)
    sides = [
        centers.new_full((height * width,), 0.05 * 2.0**level)
        for level, (height, width) in enumerate(memory.spatial_shapes)
    ]
    side = torch.cat(sides)[None, :, None].expand(len(centers), -1, 2)
    boxes = torch.cat([centers, side], dim=-1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1)
    if memory.padding_mask is not None:
        usable = usable & ~memory.padding_mask
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~usable[..., None], math.inf)
    return logits, usable


def _encode_boxes(boxes: Tensor, embed_dim: int) -> Tensor:
    """(B, Q, 4) -> (B, Q, 2C): the sine encodings of the four numbers, concatenated."""
    waves = sine_waves(boxes * (2 * math.pi), embed_dim // 2)
    return waves.flatten(-2)
