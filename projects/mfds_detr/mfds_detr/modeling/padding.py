"""Batches of images of several sizes in which no image influences another.

Convolutions, GroupNorm and channel attention see the padding of a batch, so the predictions for an
image would depend on larger images beside it. Backbone and neck therefore run once per image size,
without padding. Only the feature pyramids are padded, for the transformer, which masks exactly.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Pyramid = Sequence[Tensor]


def pyramids_by_size(
    images: Tensor | Sequence[Tensor], pyramid_of: Callable[[Tensor], Pyramid]
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Returns the feature pyramid of a batch, L * (B, C, H_l, W_l), and masks (B, H_l, W_l).

    Args:
        images: (B, 3, H, W), or one (3, H_i, W_i) per image.
        pyramid_of: Maps (N, 3, H, W) to L * (N, C, H_l, W_l); called once per image size.

    Returns:
        The padded maps, and masks that are True on padding; None if all images have one size.
    """
    if isinstance(images, Tensor):
        return list(pyramid_of(images)), None
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    pyramids = [
        pyramid_of(torch.stack([images[index] for index in indices])) for indices in groups.values()
    ]
    if len(pyramids) == 1:
        return list(pyramids[0]), None
    order = [index for indices in groups.values() for index in indices]
    position = torch.tensor(order).argsort().to(pyramids[0][0].device)
    padded = [_pad_level(maps, position) for maps in zip(*pyramids)]
    return [maps for maps, _ in padded], [mask for _, mask in padded]


def _pad_level(maps: Sequence[Tensor], position: Tensor) -> tuple[Tensor, Tensor]:
    """Pads the maps (N_g, C, H_g, W_g) of all sizes to (B, C, H, W), with masks (B, H, W)."""
    height = max(group.shape[2] for group in maps)
    width = max(group.shape[3] for group in maps)
    padded, masks = [], []
    for group in maps:
        margin = (0, width - group.shape[3], 0, height - group.shape[2])
        padded.append(F.pad(group, margin))
        inside = torch.zeros_like(group[:, 0], dtype=torch.bool)
        masks.append(F.pad(inside, margin, value=True))
    return torch.cat(padded)[position], torch.cat(masks)[position]
