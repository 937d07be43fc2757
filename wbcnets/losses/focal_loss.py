"""Focal loss of a classifier with one class per image.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5, on the softmax's
probability. For classes that are independent of each other, as in a detector, see
`wbcnets.losses.focal`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import check_smoothing, require_logits, soft_targets


class FocalLoss(nn.Module):
    """Mean over a batch of ``-alpha_y (1 - p_y)^gamma log p_y``.

    Args:
        alpha: Weight of each class, or one for all; None leaves them out.
        gamma: Exponent that turns down well classified images, from 0.
        label_smoothing: Share of each target that is spread over all classes.

    Raises:
        ConfigError: A number is out of range.
    """

    alpha: Tensor | None

    def __init__(
        self,
        alpha: float | Sequence[float] | None = None,
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ConfigError(f"FocalLoss: gamma={gamma} must be from 0")
        self.gamma = gamma
        self.label_smoothing = check_smoothing("FocalLoss", label_smoothing)
        weights = None if alpha is None else torch.as_tensor(alpha, dtype=torch.float32)
        if weights is not None and (weights.ndim > 1 or bool((weights < 0).any())):
            raise ConfigError(f"FocalLoss: alpha={alpha} must be a number from 0, or one per class")
        self.register_buffer("alpha", weights, persistent=False)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from logits (B, K) and labels (B,) or shares (B, K).

        Raises:
            ConfigError: There are no logits, or of another number of classes than alphas.
        """
        logits = require_logits("FocalLoss", logits, targets)
        alpha = self.alpha
        if alpha is not None and alpha.ndim and len(alpha) != logits.shape[1]:
            raise ConfigError(
                f"FocalLoss: {len(alpha)} alphas for logits of {logits.shape[1]} classes"
            )
        log_probability = logits.log_softmax(dim=1)
        # 1 - p, which is no difference of nearly equal numbers this way
        miss = -torch.expm1(log_probability)
        loss = -(miss.clamp_min(torch.finfo(miss.dtype).tiny) ** self.gamma) * log_probability
        shares = soft_targets(targets, logits.shape[1], self.label_smoothing).to(logits.dtype)
        if alpha is not None:
            shares = shares * alpha.to(logits.dtype)
        return (shares * loss).sum(dim=1).mean()
