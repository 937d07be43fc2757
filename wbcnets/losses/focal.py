"""Focal loss on independent classes.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5; equation 9 of
the MFDS-DETR paper, where alpha follows the classes' shares of the training set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.errors import ConfigError

ALPHA_RULES = ("share", "inverse_share")


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float | Tensor = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of every logit, not reduced: `(..., K), (..., K) -> (..., K)`.

    Computed in float32 or wider, through log-sigmoids that stay finite for any logit.

    Args:
        logits: Class logits.
        targets: 1 for the classes that are present, 0 for the others.
        alpha: Weight of the positive targets, 1 - alpha of the negative ones; a tensor `(K,)` sets
            it per class, a negative number weighs both the same.
        gamma: Exponent that turns down well classified examples.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # 1 - p_t, without the cancellation of subtracting from one
    miss = torch.sigmoid(torch.where(targets > 0.5, -logits, logits))
    loss = cross_entropy * miss**gamma
    if isinstance(alpha, (int, float)) and alpha < 0:
        return loss
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def class_fraction_alpha(counts: Sequence[int], rule: str = "share") -> Tensor:
    """Focal alpha per class from the training set's counts, `(K,)`, values in (0, 1).

    Args:
        counts: Objects of each class in the training set.
        rule: "share" is the paper's text, alpha_i the class's share of all objects; "inverse_share"
            is what counterbalances, one minus the share. Both are kept within [0.05, 0.95].

    Raises:
        ConfigError: The rule is unknown, or no object is counted.
    """
    total = sum(counts)
    if total <= 0:
        raise ConfigError(
            "focal alpha by class share needs at least one object in the training set"
        )
    shares = torch.tensor(counts, dtype=torch.float32) / total
    if rule == "share":
        return shares.clamp(0.05, 0.95)
    if rule == "inverse_share":
        return (1 - shares).clamp(0.05, 0.95)
    raise ConfigError(f"focal alpha rule {rule!r} is unknown; use one of {list(ALPHA_RULES)}")
