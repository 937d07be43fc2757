"""Bipartite matching of queries and objects (Carion et al. 2020, equation 1; section 3.6).

The class cost has the focal form of Deformable-DETR. The costs of all decoder layers and images are
computed at once on the device, so that a training step copies to the host only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou


class Matches(NamedTuple):
    """Matched pairs of all layers and images as indices, (N,) each."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor  # in the concatenated targets of the batch


@dataclass(frozen=True)
class HungarianMatcher:
    """Assigns one query to each object, at the least total cost.

    Args:
        class_cost: Weight of the focal class cost.
        l1_cost: Weight of the L1 distance of the boxes.
        giou_cost: Weight of the negative generalized IoU.
        alpha: Focal alpha.
        gamma: Focal gamma.

    Raises:
        ValueError: if all weights are zero.
    """

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not any((self.class_cost, self.l1_cost, self.giou_cost)):
            raise ValueError("the matcher needs at least one cost above zero")

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]]
    ) -> Matches:
        """(layers, B, Q, K), (layers, B, Q, 4) and B targets -> matched pairs.

        Args:
            logits: Class logits.
            boxes: (cx, cy, w, h) in fractions of the image.
            targets: Per image ``labels`` (N,) and ``boxes`` (N, 4).

        Raises:
            FloatingPointError: if a logit or a box is not finite.
        """
        sizes = [len(target["labels"]) for target in targets]
        cost = self._costs(logits.float(), boxes.float(), targets).cpu()
        if not torch.isfinite(cost).all():
            bad = (~torch.isfinite(cost)).flatten(2).any(dim=2).nonzero().tolist()
            raise FloatingPointError(
                f"the model's predictions are not finite at (decoder layer, image of the batch) "
                f"{bad[:8]}; lower the learning rate, or look at these images"
            )
        pairs: list[tuple[int, int, int, int]] = []
        start = 0
        for image, (size, block) in enumerate(zip(sizes, cost.split(sizes, dim=-1))):
            for layer in range(len(cost)):
                queries, objects = linear_sum_assignment(block[layer, image].numpy())
                pairs.extend((layer, image, q, start + o) for q, o in zip(queries, objects))
            start += size
        table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 4).to(logits.device)
        return Matches(*table.unbind(dim=1))

    def _costs(self, logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Returns the cost of every query for every object of the batch, (layers, B, Q, T)."""
        labels = torch.cat([target["labels"] for target in targets])
        target_boxes = torch.cat([target["boxes"] for target in targets]).float()
        log_positive = torch.nn.functional.logsigmoid(logits)
        log_negative = torch.nn.functional.logsigmoid(-logits)
        positive = -self.alpha * log_negative.exp() ** self.gamma * log_positive
        negative = -(1 - self.alpha) * log_positive.exp() ** self.gamma * log_negative
        class_cost = (positive - negative)[..., labels]
        flat = boxes.flatten(0, 2)
        l1_cost = torch.cdist(flat, target_boxes, p=1)
        giou = generalized_box_iou(box_cxcywh_to_xyxy(flat), box_cxcywh_to_xyxy(target_boxes))
        box_cost = self.l1_cost * l1_cost - self.giou_cost * giou
        return self.class_cost * class_cost + box_cost.view(class_cost.shape)


def box_cxcywh_to_xyxy(boxes: Tensor, min_side: float = 1e-6) -> Tensor:
    """(cx, cy, w, h) -> (x1, y1, x2, y2), (..., 4), with sides of at least ``min_side``.

    Unlike ``box_convert`` alone, this keeps the IoU of two empty boxes from being 0 / 0.
    """
    center, size = boxes.split(2, dim=-1)
    return box_convert(torch.cat([center, size.clamp(min=min_side)], dim=-1), "cxcywh", "xyxy")
