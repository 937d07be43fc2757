"""Contrastive denoising queries, which exist in training only.

Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection",
ICLR 2023, section 3.3, after Li et al., "DN-DETR", CVPR 2022: copies of the annotated boxes with
noise enter the decoder as further queries. Those with little noise learn to restore the object,
those with more noise learn to be nothing. No matching is needed, because each query knows its
object. The groups see neither each other nor are they seen by the queries that detect.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mfds_detr.modeling.matcher import Matches

# Noise of positive queries in half sides of a box; negative ones get up to twice as much
_POSITIVE_NOISE = 1.0


class DenoisingQueries(NamedTuple):
    """The denoising queries of a batch; images with fewer objects are filled up with empty ones."""

    labels: Tensor  # (B, N), with noise; num_classes on empty queries
    boxes: Tensor  # (B, N, 4), with noise, as (cx, cy, w, h) in fractions of the image
    attention_mask: Tensor  # (N + Q, N + Q), True where a query must not look
    image: Tensor  # (P,) of the positive queries
    query: Tensor  # (P,)
    target: Tensor  # (P,), in the concatenated targets of the batch
    groups: int

    def matches(self, layers: int) -> Matches:
        """Returns the pairs of positive queries and objects, the same in each decoder layer."""
        count = len(self.image)
        layer = torch.arange(layers, device=self.image.device).repeat_interleave(count)
        return Matches(
            layer, self.image.repeat(layers), self.query.repeat(layers), self.target.repeat(layers)
        )


def make_denoising_queries(
    targets: Sequence[dict[str, Tensor]],
    num_classes: int,
    num_queries: int,
    num_detecting: int,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
) -> DenoisingQueries:
    """Returns noisy copies of the objects, in as many groups as fit.

    Without objects all queries are empty: each process of a training needs the same losses, and a
    gradient for every parameter.

    Args:
        targets: Per image ``labels`` (T,) and ``boxes`` (T, 4) as (cx, cy, w, h).
        num_classes: Number of classes.
        num_queries: About how many queries an image gets.
        num_detecting: The decoder's other queries.
        label_noise: Twice the fraction of labels that are drawn anew.
        box_noise: Factor of the noise of boxes.
    """
    sizes = [len(target["labels"]) for target in targets]
    most = max([1, *sizes])
    groups = max(1, num_queries // (2 * most))
    device = targets[0]["boxes"].device
    image = torch.repeat_interleave(
        torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
    )
    slot = torch.cat([torch.arange(size, device=device) for size in sizes])
    labels = torch.cat([target["labels"] for target in targets])
    boxes = torch.cat([target["boxes"] for target in targets])

    # Position in a group: positive queries first, then negative ones
    starts = torch.arange(groups * 2, device=device) * most  # (2G,)
    query = (starts[:, None] + slot).flatten()  # (2G * T,)
    times = groups * 2
    negative = (torch.arange(times, device=device) % 2 == 1).repeat_interleave(len(slot))
    noisy_labels = torch.full((len(sizes), times * most), num_classes, device=device)
    noisy_boxes = boxes.new_full((len(sizes), times * most, 4), 0.5)
    where = (image.repeat(times), query)
    noisy_labels[where] = _noisy_labels(labels.repeat(times), num_classes, label_noise)
    noisy_boxes[where] = _noisy_boxes(boxes.repeat(times, 1), negative, box_noise)
    positive = ~negative
    return DenoisingQueries(
        labels=noisy_labels,
        boxes=noisy_boxes,
        attention_mask=_attention_mask(groups, 2 * most, num_detecting, device),
        image=where[0][positive],
        query=query[positive],
        target=torch.arange(len(slot), device=device).repeat(times)[positive],
        groups=groups,
    )


def _noisy_labels(labels: Tensor, num_classes: int, noise: float) -> Tensor:
    drawn = torch.rand(labels.shape, device=labels.device) < noise * 0.5
    return torch.where(drawn, torch.randint_like(labels, num_classes), labels)


def _noisy_boxes(boxes: Tensor, negative: Tensor, noise: float) -> Tensor:
    """Moves each corner of (N, 4) by up to one half side, those of negatives by one to two."""
    center, size = boxes.split(2, dim=-1)
    corners = torch.cat([center - size / 2, center + size / 2], dim=-1)
    sign = torch.randint_like(boxes, 2) * 2 - 1
    amount = torch.rand_like(boxes) * _POSITIVE_NOISE + negative[:, None]
    corners = corners + sign * amount * torch.cat([size, size], dim=-1) / 2 * noise
    corners = corners.clamp(0, 1)
    low, high = corners.split(2, dim=-1)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return torch.cat([(low + high) / 2, (high - low).clamp(min=1e-3)], dim=-1)


def _attention_mask(groups: int, size: int, num_detecting: int, device: torch.device) -> Tensor:
    """Returns True where a query must not look: from detecting to denoising, and across groups."""
    group = torch.arange(groups, device=device).repeat_interleave(size)
    group = torch.cat([group, torch.full((num_detecting,), -1, device=device)])
    return (group[None] != group[:, None]) & (group[None] != -1)
