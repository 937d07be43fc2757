"""One-to-many assignment of encoder tokens to objects, for the supervision of the first stage.

Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, section 3.2: an object
takes the tokens inside of it whose class score and box fit it best, and the score that they learn
is the quality of their fit. All tokens learn in every step, which a one-to-one matching of
thousands of tokens with a dozen objects does not give them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from mfds_detr.modeling.matcher import Matches, box_cxcywh_to_xyxy


class Alignment(NamedTuple):
    """The tokens that objects take."""

    matches: Matches
    quality: Tensor  # (N,), the score that each token learns, in [0, 1]


@torch.no_grad()
def align_tokens(
    logits: Tensor,
    boxes: Tensor,
    centers: Tensor,
    targets: Sequence[dict[str, Tensor]],
    top: int = 10,
    alpha: float = 0.5,
    beta: float = 4.0,
) -> Alignment:
    """Assigns at most ``top`` tokens to each object.

    Args:
        logits: Class logits (B, S, K).
        boxes: Predicted boxes (B, S, 4) as (cx, cy, w, h) in fractions of the image.
        centers: Centers of the tokens (B, S, 2) in fractions of the image; not finite if a token is
            no candidate.
        targets: Per image ``labels`` (T,) and ``boxes`` (T, 4).
        top: Tokens of an object.
        alpha: Exponent of the class score in the measure of fit.
        beta: Exponent of the IoU.
    """
    rows, start = [], 0
    for image, target in enumerate(targets):
        if len(target["labels"]):
            rows.append(
                _align_image(
                    logits[image].float(),
                    boxes[image].float(),
                    centers[image],
                    target,
                    (image, start),
                    (top, alpha, beta),
                )
            )
        start += len(target["labels"])
    if not rows:
        empty = torch.zeros(0, dtype=torch.int64, device=logits.device)
        return Alignment(Matches(empty, empty, empty, empty), logits.new_zeros(0))
    image_of, token, object_of, quality = (torch.cat(column) for column in zip(*rows))
    return Alignment(Matches(torch.zeros_like(token), image_of, token, object_of), quality)


def _align_image(logits, boxes, centers, target, place, sizes):
    top, alpha, beta = sizes
    image, start = place
    wanted = box_cxcywh_to_xyxy(target["boxes"].float())
    iou = box_iou(box_cxcywh_to_xyxy(boxes), wanted)  # (S, T)
    fit = logits.sigmoid()[:, target["labels"]].pow(alpha) * iou.pow(beta)
    inside = (centers[:, None] > wanted[None, :, :2]).all(-1) & (
        centers[:, None] < wanted[None, :, 2:]
    ).all(-1)
    # A cell may be smaller than the distance of two tokens: it takes the nearest one
    distance = torch.cdist(centers.nan_to_num(1e3, 1e3, 1e3), target["boxes"][:, :2].float())
    inside[distance.argmin(dim=0), torch.arange(len(wanted), device=iou.device)] = True
    fit = torch.where(inside, fit + 1e-9, fit.new_zeros(()))
    best = fit.topk(min(top, len(fit)), dim=0)
    taken = torch.zeros_like(fit, dtype=torch.bool).scatter_(0, best.indices, True) & (fit > 0)
    # A token that several objects want goes to the one that it overlaps most
    clash = taken.sum(dim=1) > 1
    keep = torch.zeros_like(taken).scatter_(
        1, torch.where(taken, iou, -1.0).argmax(1, keepdim=True), True
    )
    taken = torch.where(clash[:, None], taken & keep, taken)
    token, obj = taken.nonzero(as_tuple=True)
    highest = torch.where(taken, fit, 0.0).amax(dim=0).clamp(min=1e-9)
    overlap = torch.where(taken, iou, 0.0).amax(dim=0)
    quality = fit[token, obj] / highest[obj] * overlap[obj]
    return torch.full_like(token, image), token, obj + start, quality
