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

from mfds_detr.modeling.transformer import DeformableTransformer, refine_boxes
from wbcnets.ops.autocast import widened


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
    """

    def __init__(
        self,
        transformer: DeformableTransformer,
        position_encoding: nn.Module,
        num_classes: int,
        num_queries: int = 100,
        box_refinement: bool = False,
        aux_loss: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.position_encoding = position_encoding
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.box_refinement = box_refinement
        self.aux_loss = aux_loss
        dim = transformer.embed_dim
        two_stage = transformer.two_stage
        self.query_embed = None if two_stage else nn.Embedding(num_queries, dim * 2)
        heads = len(transformer.decoder.layers) + int(two_stage)
        class_embed, bbox_embed = _initial_heads(dim, num_classes, two_stage)
        self.class_embed = _repeat(class_embed, heads, box_refinement)
        self.bbox_embed = _repeat(bbox_embed, heads, box_refinement)
        if box_refinement:
            for later in self.bbox_embed[1:]:
                # Later layers start from boxes and, before training, do not change them
                nn.init.zeros_(later.get_parameter("layers.2.bias"))

    def forward(
        self, features: Sequence[Tensor], masks: Sequence[Tensor] | None = None
    ) -> dict[str, Any]:
        """L * (B, C, H_l, W_l) and padding masks (B, H_l, W_l) -> predictions.

        Args:
            features: One map per level.
            masks: True on padding; None if no image is padded.

        Returns:
            ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) as (cx, cy, w, h) in fractions
            of the image. With ``aux_loss`` also ``aux_outputs``, a list with such a dictionary for
            each earlier decoder layer. With two stages also ``enc_outputs``, such a dictionary with
            one query per encoder token.
        """
        positions = [
            self.position_encoding(mask).to(feature.dtype)
            for feature, mask in zip(features, masks or _empty_masks(features))
        ]
        memory = self.transformer.encode(features, masks, positions)
        proposals, enc_outputs = None, None
        if self.transformer.two_stage:
            scores, proposals = self.transformer.propose(
                memory, self.class_embed[-1], self.bbox_embed[-1]
            )
            enc_outputs = {"pred_logits": widened(scores), "pred_boxes": proposals.sigmoid()}
            best = scores[..., 0].topk(min(self.num_queries, scores.shape[1]), dim=1).indices
            proposals = proposals.gather(1, best[..., None].expand(-1, -1, 4))
        hidden, references = self.transformer.decode(
            memory,
            None if self.query_embed is None else self.query_embed.weight,
            proposals,
            self.bbox_embed if self.box_refinement else None,
        )
        outputs = [
            {
                "pred_logits": widened(self.class_embed[layer](state)),
                "pred_boxes": refine_boxes(self.bbox_embed[layer](state), references[layer]),
            }
            for layer, state in enumerate(hidden)
        ]
        predictions: dict[str, Any] = dict(outputs[-1])
        if self.aux_loss:
            predictions["aux_outputs"] = outputs[:-1]
        if enc_outputs is not None:
            predictions["enc_outputs"] = enc_outputs
        return predictions


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
