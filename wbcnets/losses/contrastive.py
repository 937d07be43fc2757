"""Contrastive loss over a batch.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.4, equation 17: images of one class are pulled together, images of different
classes are pushed apart while their similarity exceeds a threshold.

Differences from the paper:

- Equation 17 as printed lacks the threshold in its second sum. The text around it, and the maximum
  that remains in the equation, have it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import hard_targets, require_features
from wbcnets.ops.autocast import autocast_off


class ContrastiveLoss(nn.Module):
    """Mean over all N^2 pairs of a batch, each image paired with itself too.

    A pair of one class adds ``1 - cos`` of its features, a pair of two classes
    ``max(cos - threshold, 0)``. With several processes, each pairs the images of its own batch.
    Soft targets count as their most probable class.

    Args:
        threshold: Cosine similarity that two classes may have, in [-1, 1]; 0.4 in the paper.

    Raises:
        ConfigError: if the threshold is out of range.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        super().__init__()
        if not -1 <= threshold <= 1:
            raise ConfigError(f"ContrastiveLoss: threshold={threshold} must be in [-1, 1]")
        self.threshold = threshold

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from features (B, C) and labels (B,) or probabilities (B, K)."""
        features = require_features("ContrastiveLoss", features, targets)
        labels = hard_targets(targets)
        with autocast_off(features):
            # Scale by the largest value first: squares of large features overflow
            scale = features.detach().abs().amax(dim=1, keepdim=True)
            unit = F.normalize(features / scale.clamp_min(torch.finfo(scale.dtype).tiny), dim=1)
            cosine = unit @ unit.t()
        same = labels[:, None] == labels[None, :]
        return torch.where(same, 1 - cosine, (cosine - self.threshold).clamp_min(0)).mean()
