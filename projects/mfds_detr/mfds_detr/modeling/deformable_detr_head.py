"""The detection head: queries, deformable transformer, class and box heads on feature maps.

Source: sections 3.5 and 3.6 of the MFDS-DETR paper; the iterative box refinement and two-stage
variants of Deformable-DETR. Parameter names are those of the original Deformable-DETR code.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfds_detr.modeling.denoising import DenoisingQueries, make_denoising_queries
from mfds_detr.modeling.transformer import (
    DeformableTransformer,
    Memory,
    ScoredTokens,
    refine_boxes,
)
from wbcnets.ops.autocast import widened

# Times the queries: proposals among which distinct ones are looked for
_CANDIDATES = 3
# Subtracted from logits: covered boxes come behind all others, but before padding
_COVERED = 1e3


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_dim: Input width.
        hidden_dim: Width of the hidden layers.
        out_dim: Output width.
        num_layers: Number of linear layers.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DeformableDETRHead(nn.Module):
    """Predicts class logits and boxes of a fixed number of queries from a feature pyramid.

    Args:
        transformer: The deformable transformer.
        position_encoding: Maps a padding mask (B, H, W) to a position encoding (B, C, H, W).
        num_classes: Number of classes; there is no background class, because logits go through a
            sigmoid.
        num_queries: Number of queries, the most objects that can be found in an image.
        box_refinement: Whether each decoder layer corrects the boxes of the previous one.
        aux_loss: Whether the outputs of the earlier decoder layers are returned for the loss.
        class_proposals: Whether the first stage ranks its proposals by their best class; else its
            first class stands for "object".
        distinct_proposals: Whether proposals of one object make room for others, see
            ``distinct_boxes``.
        token_content: Whether queries start with the content of the tokens that proposed them.
        denoising_queries: About how many denoising queries an image gets in training; 0 for none.
    """

    def __init__(
        self,
        transformer: DeformableTransformer,
        position_encoding: nn.Module,
        num_classes: int,
        num_queries: int = 100,
        box_refinement: bool = False,
        aux_loss: bool = True,
        class_proposals: bool = False,
        distinct_proposals: bool = False,
        token_content: bool = False,
        denoising_queries: int = 0,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.position_encoding = position_encoding
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.box_refinement = box_refinement
        self.aux_loss = aux_loss
        self.class_proposals = class_proposals
        self.distinct_proposals = distinct_proposals
        self.token_content = token_content
        self.denoising_queries = denoising_queries
        dim = transformer.embed_dim
        two_stage = transformer.two_stage
        self.query_embed = None if two_stage else nn.Embedding(num_queries, dim * 2)
        heads = len(transformer.decoder.layers) + int(two_stage)
        # The last label is that of empty denoising queries
        self.label_embed = nn.Embedding(num_classes + 1, dim) if denoising_queries else None
        class_embed, bbox_embed = _initial_heads(dim, num_classes, two_stage)
        self.class_embed = _repeat(class_embed, heads, box_refinement)
        self.bbox_embed = _repeat(bbox_embed, heads, box_refinement)
        if box_refinement:
            for later in self.bbox_embed[1:]:
                # Later layers start from boxes and, before training, do not change them
                nn.init.zeros_(later.get_parameter("layers.2.bias"))

    def forward(
        self,
        features: Sequence[Tensor],
        masks: Sequence[Tensor] | None = None,
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> dict[str, Any]:
        """L * (B, C, H_l, W_l) and padding masks (B, H_l, W_l) -> predictions.

        Args:
            features: One map per level.
            masks: True on padding; None if no image is padded.
            targets: Per image ``labels`` (T,) and ``boxes`` (T, 4), for denoising queries.

        Returns:
            ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) as (cx, cy, w, h) in fractions
            of the image. With ``aux_loss`` also ``aux_outputs``, a list with such a dictionary for
            each earlier decoder layer. With two stages and gradients also ``enc_outputs``, such a
            dictionary with one query per encoder token and their ``centers``, infinite for tokens
            that propose nothing. In training with denoising queries also ``denoising``, the
            queries, and ``denoising_outputs``, a dictionary per layer.
        """
        positions = [
            self.position_encoding(mask).to(feature.dtype)
            for feature, mask in zip(features, masks or _empty_masks(features))
        ]
        memory = self.transformer.encode(features, masks, positions)
        boxes, content, enc_outputs = None, None, None
        if self.transformer.two_stage:
            boxes, content, enc_outputs = self._propose(memory)
        noisy = self._denoising(targets, self.num_queries if boxes is None else boxes.shape[1])
        if noisy is not None and self.label_embed is not None and boxes is not None:
            boxes = torch.cat([noisy.boxes, boxes], dim=1)
            labels = self.label_embed(noisy.labels)
            if content is None:
                detecting = boxes.shape[1] - labels.shape[1]
                content = labels.new_zeros(len(labels), detecting, labels.shape[2])
            content = torch.cat([labels, content], dim=1)
        hidden, references = self.transformer.decode(
            memory,
            None if self.query_embed is None else self.query_embed.weight,
            boxes,
            self.bbox_embed if self.box_refinement else None,
            content,
            None if noisy is None else noisy.attention_mask,
        )
        outputs = [
            {
                "pred_logits": widened(self.class_embed[layer](state)),
                "pred_boxes": refine_boxes(self.bbox_embed[layer](state), references[layer]),
            }
            for layer, state in enumerate(hidden)
        ]
        denoised = []
        if noisy is not None:
            count = noisy.labels.shape[1]
            denoised = [{k: v[:, :count] for k, v in output.items()} for output in outputs]
            outputs = [{k: v[:, count:] for k, v in output.items()} for output in outputs]
        predictions: dict[str, Any] = dict(outputs[-1])
        if self.aux_loss:
            predictions["aux_outputs"] = outputs[:-1]
        if enc_outputs is not None:
            predictions["enc_outputs"] = enc_outputs
        if noisy is not None:
            predictions["denoising"] = noisy
            predictions["denoising_outputs"] = denoised
        return predictions

    def _propose(self, memory: Memory) -> tuple[Tensor, Tensor | None, dict[str, Tensor] | None]:
        """Returns the boxes (B, Q, 4) and contents (B, Q, C) of the best proposals, and all.

        All are for the loss: without gradients, boxes are computed for the best ones only.
        """
        found = self.transformer.score_tokens(memory, self.class_embed[-1])
        scores = found.logits.amax(dim=-1) if self.class_proposals else found.logits[..., 0]
        count = min(self.num_queries, scores.shape[1])
        candidates = min(_CANDIDATES * count if self.distinct_proposals else count, scores.shape[1])
        best = scores.detach().topk(candidates, dim=1)
        chosen = best.indices
        everything = None
        if torch.is_grad_enabled():
            everything = self._all_proposals(found)
            boxes = _take(everything["pred_boxes"], chosen).detach()
        else:
            change = widened(self.bbox_embed[-1](_take(found.tokens, chosen)))
            boxes = (change + _take(found.anchors, chosen)).sigmoid()
        if self.distinct_proposals:
            kept = distinct_boxes(boxes, best.values, count)
            boxes, chosen = _take(boxes, kept), chosen.gather(1, kept)
        content = _take(found.tokens, chosen).detach() if self.token_content else None
        return boxes, content, everything

    def _all_proposals(self, found: ScoredTokens) -> dict[str, Tensor]:
        centers = found.anchors[..., :2]
        return {
            "pred_logits": widened(found.logits),
            "pred_boxes": (widened(self.bbox_embed[-1](found.tokens)) + found.anchors).sigmoid(),
            "centers": centers.sigmoid().masked_fill(~centers.isfinite(), math.inf),
        }

    def _denoising(
        self, targets: Sequence[dict[str, Tensor]] | None, num_detecting: int
    ) -> DenoisingQueries | None:
        if not (self.training and self.denoising_queries and targets):
            return None
        return make_denoising_queries(
            targets, self.num_classes, self.denoising_queries, num_detecting
        )


def distinct_boxes(boxes: Tensor, scores: Tensor, count: int, max_iou: float = 0.7) -> Tensor:
    """Returns the indices of the best boxes, (B, count); boxes that a better one covers come last.

    As several tokens learn each object, the best tokens are mostly those of the plainest cells; a
    small or rare one would get no query. Every better box counts, also one that is covered itself
    (fast NMS: Bolya et al., "YOLACT", ICCV 2019), so that no step waits for another.

    Args:
        boxes: (B, N, 4) as (cx, cy, w, h), best first.
        scores: Logits (B, N), descending.
        count: Number of boxes to return, at most N.
        max_iou: IoU above which a box is covered.
    """
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    sides = torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(
        low[:, :, None], low[:, None]
    )
    shared = sides.clamp(min=0).prod(dim=-1)  # (B, N, N)
    area = boxes[..., 2] * boxes[..., 3]
    covers = shared > max_iou * (area[:, :, None] + area[:, None] - shared)
    covered = covers.triu(diagonal=1).any(dim=1)
    return (widened(scores) - _COVERED * covered).topk(count, dim=1).indices


def _take(values: Tensor, chosen: Tensor) -> Tensor:
    """(B, S, C), (B, N) -> (B, N, C)."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))


def _initial_heads(dim: int, num_classes: int, two_stage: bool) -> tuple[nn.Linear, MLP]:
    """Returns heads whose scores start at 0.01, and whose boxes start at their references.

    References that are points start with small boxes.
    """
    class_embed = nn.Linear(dim, num_classes)
    nn.init.constant_(class_embed.bias, -math.log(99.0))
    bbox_embed = MLP(dim, dim, 4, 3)
    nn.init.zeros_(bbox_embed.last.weight)
    nn.init.zeros_(bbox_embed.last.bias)
    if not two_stage:
        nn.init.constant_(bbox_embed.last.bias[2:], -2.0)
    return class_embed, bbox_embed


def _repeat(head: nn.Module, count: int, separate: bool) -> nn.ModuleList:
    """Returns one head per layer, or one that all layers share."""
    return nn.ModuleList(copy.deepcopy(head) if separate else head for _ in range(count))


def _empty_masks(features: Sequence[Tensor]) -> list[Tensor]:
    """Returns masks (B, H_l, W_l) without padding."""
    return [torch.zeros_like(feature[:, 0], dtype=torch.bool) for feature in features]
