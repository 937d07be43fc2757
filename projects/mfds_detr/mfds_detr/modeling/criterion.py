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
from wbcnets.losses.focal import sigmoid_focal_loss


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
    ) -> None:
        super().__init__()
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
        layers = [*predictions.get("aux_outputs", []), predictions]
        suffixes = [f"_{index}" for index in range(len(layers) - 1)] + [""]
        num_objects = _count_objects(targets, predictions["pred_logits"].device)
        losses = self._layer_losses(layers, suffixes, targets, self.alpha, num_objects)
        if "enc_outputs" in predictions:
            # Every object has the first class here: the first stage only detects objects
            binary = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
            first_stage = [predictions["enc_outputs"]]
            alpha = self.alpha.mean()  # the same for objects of all classes
            losses |= self._layer_losses(first_stage, ["_encoder"], binary, alpha, num_objects)
        return losses

    def _layer_losses(
        self,
        layers: Sequence[dict[str, Tensor]],
        suffixes: Sequence[str],
        targets: Sequence[dict[str, Tensor]],
        alpha: Tensor,
        num_objects: Tensor,
    ) -> dict[str, Tensor]:
        logits = torch.stack([layer["pred_logits"] for layer in layers])  # (layers, B, Q, K)
        boxes = torch.stack([layer["pred_boxes"] for layer in layers])
        matches = self.matcher(logits, boxes, targets)
        weighted = {
            "loss_class": self.class_weight * self._class_loss(logits, matches, targets, alpha)
        }
        l1, giou = _box_losses(boxes, matches, targets)
        if self.l1_weight:
            weighted["loss_l1"] = self.l1_weight * l1
        if self.giou_weight:
            weighted["loss_giou"] = self.giou_weight * giou
        return {
            name + suffix: loss
            for name, per_layer in weighted.items()
            for suffix, loss in zip(suffixes, (per_layer / num_objects).unbind())
        }

    def _class_loss(
        self,
        logits: Tensor,
        matches: Matches,
        targets: Sequence[dict[str, Tensor]],
        alpha: Tensor,
    ) -> Tensor:
        """(layers, B, Q, K) -> (layers,), summed over images, queries and classes."""
        labels = torch.cat([target["labels"] for target in targets])
        one_hot = torch.zeros_like(logits)
        one_hot[matches.layer, matches.image, matches.query, labels[matches.target]] = 1.0
        return sigmoid_focal_loss(logits, one_hot, alpha, self.gamma).sum(dim=(1, 2, 3))

    def _check_labels(self, targets: Sequence[dict[str, Tensor]]) -> None:
        labels = torch.cat([target["labels"] for target in targets])
        if labels.device.type != "cpu":
            return  # it would stall the GPU; the dataset was checked when it was read
        if ((labels < 0) | (labels >= self.num_classes)).any():
            raise ValueError(
                f"labels {sorted(set(labels.tolist()))} do not fit num_classes={self.num_classes}"
            )


def _box_losses(
    boxes: Tensor, matches: Matches, targets: Sequence[dict[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns L1 and GIoU losses, (layers,) each, summed over matched pairs (equation 10).

    They are computed in float32 or wider: sums over many pairs lose digits in half types.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    matched = boxes[matches.layer, matches.image, matches.query]
    wanted = torch.cat([target["boxes"] for target in targets]).to(boxes.dtype)[matches.target]
    l1 = F.l1_loss(matched, wanted, reduction="none").sum(dim=-1)
    giou = generalized_box_iou_loss(
        box_cxcywh_to_xyxy(matched), box_cxcywh_to_xyxy(wanted), reduction="none"
    )
    start = boxes.new_zeros(len(boxes))
    # Without objects, every box parameter still needs a gradient, of zero
    unused = boxes.flatten(1).sum(dim=1) * 0
    return (
        start.index_add(0, matches.layer, l1) + unused,
        start.index_add(0, matches.layer, giou) + unused,
    )


def _count_objects(targets: Sequence[dict[str, Tensor]], device: torch.device) -> Tensor:
    """Returns the number of objects, averaged over the processes, at least 1."""
    count = torch.tensor(float(sum(len(target["labels"]) for target in targets)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)
