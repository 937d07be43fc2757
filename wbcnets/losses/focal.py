"""Focal loss of a classifier (softmax) and of a detector (sigmoid).

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5:
``FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)``. Equation 9 of the MFDS-DETR paper is the sigmoid
form, with alpha from the class fractions of the training set.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import are_weights, check_smoothing, require_logits, soft_targets
from wbcnets.ops.autocast import widened

ALPHA_RULES = ("fraction", "inverse_fraction")


def focal_term(cross_entropy: Tensor, miss: Tensor, gamma: float) -> Tensor:
    """Returns ``-(1 - p)^gamma log(p)``, elementwise.

    Args:
        cross_entropy: ``-log(p)``.
        miss: ``1 - p``, computed without cancellation where p is near 1.
        gamma: Exponent that turns down well-classified examples.
    """
    # The gradient of 0 ** gamma is infinite for gamma below 1
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma * cross_entropy


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float | Tensor = 0.25, gamma: float = 2.0
) -> Tensor:
    """Returns the focal loss of every logit, not reduced: (..., K), (..., K) -> (..., K).

    Computed in float32 or wider; finite for any finite logit.

    Args:
        logits: Class logits.
        targets: 1 for the classes that are present, 0 for the others.
        alpha: Weight of the positive targets; the negative ones get 1 - alpha. A tensor (K,) sets
            it per class; a negative number weighs both the same.
        gamma: Exponent that turns down well-classified examples.
    """
    logits = widened(logits)
    targets = targets.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = torch.sigmoid(torch.where(targets > 0.5, -logits, logits))
    loss = focal_term(cross_entropy, miss, gamma)
    if isinstance(alpha, (int, float)) and alpha < 0:
        return loss
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def class_fraction_alpha(counts: Sequence[int], rule: str = "fraction") -> Tensor:
    """Returns a focal alpha per class from the training set's counts, (K,), in [0.05, 0.95].

    Args:
        counts: Objects of each class in the training set.
        rule: "fraction" is the paper's text: alpha is the class's fraction of all objects.
            "inverse_fraction" is one minus that, which counterbalances the classes.

    Raises:
        ConfigError: if the rule is unknown or there are no objects.
    """
    total = sum(counts)
    if total <= 0:
        raise ConfigError(
            "focal alpha from class fractions needs at least one object in the training set"
        )
    fractions = torch.tensor(counts, dtype=torch.float32) / total
    if rule == "fraction":
        return fractions.clamp(0.05, 0.95)
    if rule == "inverse_fraction":
        return (1 - fractions).clamp(0.05, 0.95)
    raise ConfigError(f"focal alpha rule {rule!r} is unknown; use one of {list(ALPHA_RULES)}")


class FocalLoss(nn.Module):
    """Focal loss of a softmax, for one class per image; the mean over the batch.

    Args:
        alpha: Weight of each class, or one for all; None for no weights.
        gamma: Exponent that turns down well-classified images, at least 0.
        label_smoothing: Fraction of each target that is spread over all classes.

    Raises:
        ConfigError: if a number is out of range.
    """

    alpha: Tensor | None

    def __init__(
        self,
        alpha: float | Sequence[float] | None = None,
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ConfigError(f"FocalLoss: gamma={gamma} must be finite and at least 0")
        self.gamma = gamma
        self.label_smoothing = check_smoothing("FocalLoss", label_smoothing)
        weights = None if alpha is None else torch.as_tensor(alpha, dtype=torch.float32)
        if weights is not None and (weights.ndim > 1 or not are_weights(weights)):
            raise ConfigError(
                f"FocalLoss: alpha={alpha} must be a finite number above 0, or one of at least 0 "
                "per class, not all 0"
            )
        self.register_buffer("alpha", weights, persistent=False)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from logits (B, K) and labels (B,) or probabilities (B, K).

        Raises:
            ConfigError: if there are no logits, or their classes do not match the alphas.
        """
        logits = require_logits("FocalLoss", logits, targets)
        alpha = self.alpha
        if alpha is not None and alpha.ndim and len(alpha) != logits.shape[1]:
            raise ConfigError(
                f"FocalLoss: {len(alpha)} alphas for logits of {logits.shape[1]} classes"
            )
        log_probability = logits.log_softmax(dim=1)
        loss = focal_term(-log_probability, -torch.expm1(log_probability), self.gamma)
        weights = soft_targets(targets, logits.shape[1], self.label_smoothing).to(logits.dtype)
        if alpha is not None:
            weights = weights * alpha.to(logits.dtype)
        return (weights * loss).sum(dim=1).mean()
