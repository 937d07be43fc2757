"""The joint loss of MFDS-DETR: classification, L1 and GIoU on every decoder layer.

Source: section 3.6 of the MFDS-DETR paper, equations 8 to 10. All layers are computed together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from mfds_detr.modeling.matcher import HungarianMatcher, Matches, box_cxcywh_to_xyxy
from mfds_detr.modeling.task_alignment import align_tokens
from wbcnets.losses.focal import sigmoid_focal_loss

# The exponent of IoU and of scores in the matchability-aware loss, as in the DEIM paper
_QUALITY_GAMMA = 1.5


class SetCriterion(nn.Module):
    """Weighted losses of a set of predictions against the objects of a batch.

    Losses are summed over the queries of a batch and divided by its number of objects, averaged
    over the processes, so that the number of processes does not change the loss.

    Args:
        matcher: Assigns queries to objects in each layer.
        num_classes: Number of classes, without background.
        class_weight: Weight of the focal classification loss (equation 9).
        l1_weight: Weight of the L1 box loss, 0 to leave it out (equation 10).
        giou_weight: Weight of the GIoU loss, 0 to leave it out (equation 10).
        alpha: Focal alpha, one number or one per class (num_classes,).
        gamma: Focal gamma.
        quality: Whether a score learns the IoU of its box with the object, instead of 1: Huang et
            al., "DEIM: DETR with Improved Matching for Fast Convergence", CVPR 2025, equation 3.
        class_proposals: Whether the first stage learns classes; else its first class stands for
            "object".
        dense_proposals: Whether several tokens of the first stage learn each object, see
            ``align_tokens``, instead of one.
    """

    alpha: Tensor

    def __init__(
        self,
        matcher: HungarianMatcher,
        num_classes: int,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float | Tensor = 0.25,
        gamma: float = 2.0,
        quality: bool = False,
        class_proposals: bool = False,
        dense_proposals: bool = False,
    ) -> None:
        super().__init__()
        self.quality = quality
        self.class_proposals = class_proposals
        self.dense_proposals = dense_proposals
        self.matcher = matcher
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.gamma = gamma
        per_class = torch.as_tensor(alpha, dtype=torch.float32).expand(num_classes).clone()
        self.register_buffer("alpha", per_class, persistent=False)

    def forward(
        self, predictions: dict[str, Any], targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns weighted losses by name; the total loss is their sum.

        Args:
            predictions: The output of ``DeformableDETRHead``.
            targets: Per image ``labels`` (N,) in [0, num_classes) and ``boxes`` (N, 4) as
                (cx, cy, w, h) in fractions of the image.

        Returns:
            ``loss_class``, ``loss_l1`` and ``loss_giou`` of the last decoder layer; the same with
            the suffixes ``_0``, ``_1``, ... for the earlier layers and ``_encoder`` for the first
            stage.

        Raises:
            ValueError: if a label is not in [0, num_classes).
        """
        self._check_labels(targets)
        num_objects = _count(sum(len(t["labels"]) for t in targets), predictions["pred_logits"])
        layers = [*predictions.get("aux_outputs", []), predictions]
        suffixes = [f"_{index}" for index in range(len(layers) - 1)] + [""]
        found = _stack(layers)
        matches = self.matcher(*found, targets)
        losses = self._losses(found, matches, targets, suffixes, num_objects)
        if "enc_outputs" in predictions:
            losses |= self._proposal_losses(predictions["enc_outputs"], targets, num_objects)
        if "denoising" in predictions:
            queries, found = predictions["denoising"], _stack(predictions["denoising_outputs"])
            names = [f"_denoising_{index}" for index in range(len(found[0]))]
            losses |= self._losses(
                found, queries.matches(len(names)), targets, names, num_objects * queries.groups
            )
        return losses

    def _proposal_losses(
        self,
        proposals: dict[str, Tensor],
        targets: Sequence[dict[str, Tensor]],
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the losses of the first stage."""
        found = _stack([proposals])
        if self.dense_proposals:
            matches, quality = align_tokens(
                proposals["pred_logits"], proposals["pred_boxes"], proposals["centers"], targets
            )
            total = _count(quality.sum(), quality)
            return self._losses(found, matches, targets, ["_encoder"], total, quality=quality)
        if self.class_proposals:
            matches = self.matcher(*found, targets)
            return self._losses(found, matches, targets, ["_encoder"], num_objects)
        # Every object has the first class here: the first stage only detects objects
        binary = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
        alpha = self.alpha.mean()  # the same for objects of all classes
        matches = self.matcher(*found, binary)
        return self._losses(found, matches, binary, ["_encoder"], num_objects, alpha)

    def _losses(
        self,
        found: tuple[Tensor, Tensor],
        matches: Matches,
        targets: Sequence[dict[str, Tensor]],
        suffixes: Sequence[str],
        divisor: Tensor,
        alpha: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the weighted losses of layers, logits (layers, B, Q, K) and boxes."""
        logits, boxes = found
        pairs = _pair_boxes(boxes, matches, targets)
        if quality is None and self.quality:
            quality = _paired_iou(*pairs) ** _QUALITY_GAMMA
        classes = self._class_loss(logits, matches, targets, alpha, quality)
        l1, giou = _box_losses(
            boxes,
            matches,
            pairs,
            quality if self.dense_proposals and suffixes == ["_encoder"] else None,
        )
        weighted = {"loss_class": self.class_weight * classes}
        if self.l1_weight:
            weighted["loss_l1"] = self.l1_weight * l1
        if self.giou_weight:
            weighted["loss_giou"] = self.giou_weight * giou
        return {
            name + suffix: loss
            for name, per_layer in weighted.items()
            for suffix, loss in zip(suffixes, (per_layer / divisor).unbind())
        }

    def _class_loss(
        self,
        logits: Tensor,
        matches: Matches,
        targets: Sequence[dict[str, Tensor]],
        alpha: Tensor | None,
        quality: Tensor | None,
    ) -> Tensor:
        """(layers, B, Q, K) -> (layers,), summed over images, queries and classes."""
        labels = torch.cat([target["labels"] for target in targets])
        where = (matches.layer, matches.image, matches.query, labels[matches.target])
        wanted = torch.zeros_like(logits)
        if quality is None:
            wanted[where] = 1.0
            alpha = self.alpha if alpha is None else alpha
            return sigmoid_focal_loss(logits, wanted, alpha, self.gamma).sum(dim=(1, 2, 3))
        wanted[where] = quality.to(wanted.dtype)
        weight = logits.detach().sigmoid() ** _QUALITY_GAMMA
        weight[where] = 1.0
        loss = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none")
        return loss.sum(dim=(1, 2, 3))

    def _check_labels(self, targets: Sequence[dict[str, Tensor]]) -> None:
        labels = torch.cat([target["labels"] for target in targets])
        if labels.device.type != "cpu":
            return  # it would stall the GPU; the dataset was checked when it was read
        if ((labels < 0) | (labels >= self.num_classes)).any():
            raise ValueError(
                f"labels {sorted(set(labels.tolist()))} do not fit num_classes={self.num_classes}"
            )


def _stack(layers: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns class logits (layers, B, Q, K) and boxes (layers, B, Q, 4)."""
    logits = torch.stack([layer["pred_logits"] for layer in layers])
    return logits, torch.stack([layer["pred_boxes"] for layer in layers])


def _pair_boxes(
    boxes: Tensor, matches: Matches, targets: Sequence[dict[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns the predicted and the annotated boxes of matched pairs, (N, 4) each.

    They are in float32 or wider: sums over many pairs lose digits in half types.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    matched = boxes[matches.layer, matches.image, matches.query]
    wanted = torch.cat([target["boxes"] for target in targets]).to(boxes.dtype)
    return matched, wanted[matches.target]


def _paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU of pairs of boxes (N, 4), (N,), without gradients."""
    a, b = box_cxcywh_to_xyxy(first.detach()), box_cxcywh_to_xyxy(second)
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    shared = sides.prod(dim=-1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared)


def _box_losses(
    boxes: Tensor, matches: Matches, pairs: tuple[Tensor, Tensor], weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns L1 and GIoU losses, (layers,) each, summed over matched pairs (equation 10)."""
    matched, wanted = pairs
    l1 = F.l1_loss(matched, wanted, reduction="none").sum(dim=-1)
    giou = generalized_box_iou_loss(
        box_cxcywh_to_xyxy(matched), box_cxcywh_to_xyxy(wanted), reduction="none"
    )
    if weight is not None:
        l1, giou = l1 * weight, giou * weight
    start = l1.new_zeros(len(boxes))
    # Without objects, every box parameter still needs a gradient, of zero
    unused = boxes.flatten(1).sum(dim=1) * 0
    return (
        start.index_add(0, matches.layer, l1) + unused,
        start.index_add(0, matches.layer, giou) + unused,
    )


def _count(number: float | Tensor, like: Tensor) -> Tensor:
    """Returns a number averaged over the processes, at least 1."""
    count = torch.as_tensor(number, dtype=torch.float32, device=like.device).clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)
