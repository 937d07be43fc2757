"""Contrastive loss over a batch (the convolutional sparse ViT paper, section 3.4, equation 17).

Images of one class are drawn together, images of two are pushed apart as long as they are more
alike than a threshold. Equation 17 as printed lacks the threshold in its second sum; the text
around it, and the maximum that is left of it, have it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import hard_targets, require_features


class ContrastiveLoss(nn.Module):
    """Mean over all N^2 pairs of a batch, each image with itself included.

    ``1 - cos`` of the features for one class, ``max(cos - threshold, 0)`` for two. With several
    processes, pairs are those within each. Soft targets count as their largest class.

    Args:
        threshold: How alike two classes may be, from -1 to 1; the paper's: 0.4.

    Raises:
        ConfigError: The threshold is out of range.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        super().__init__()
        if not -1 <= threshold <= 1:
            raise ConfigError(f"ContrastiveLoss: threshold={threshold} must be from -1 to 1")
        self.threshold = threshold

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from features (B, C) and labels (B,) or shares (B, K)."""
        features = require_features("ContrastiveLoss", features, targets)
        labels = hard_targets(targets)
        with torch.autocast(features.device.type, enabled=False):
            # The largest value first: squares of large features leave their type's range
            scale = features.detach().abs().amax(dim=1, keepdim=True)
            unit = F.normalize(features / scale.clamp_min(torch.finfo(scale.dtype).tiny), dim=1)
            cosine = unit @ unit.t()
        same = labels[:, None] == labels[None, :]
        return torch.where(same, 1 - cosine, (cosine - self.threshold).clamp_min(0)).mean()
