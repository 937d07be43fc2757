"""What every loss of a classifier checks, and the two kinds of targets.

A loss is called as ``loss(features, logits, targets)``, so that losses on features and losses on
logits can be combined. Checks look at shapes and types only: values stay on their device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.errors import ConfigError


def require_logits(loss: str, logits: Tensor | None, targets: Tensor) -> Tensor:
    """Logits (B, K) in float32 or wider.

    Raises:
        ConfigError: They are missing, or do not go with the targets.
    """
    if logits is None:
        raise ConfigError(f"{loss} needs the logits, got None")
    _check_batch(loss, "logits", logits, targets)
    if targets.ndim == 2 and targets.shape[1] != logits.shape[1]:
        raise ConfigError(
            f"{loss}: soft targets {tuple(targets.shape)} have another number of classes than "
            f"the logits {tuple(logits.shape)}"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def require_features(loss: str, features: Tensor | None, targets: Tensor) -> Tensor:
    """Features (B, C) in float32 or wider.

    Raises:
        ConfigError: They are missing, or do not go with the targets.
    """
    if features is None:
        raise ConfigError(
            f"{loss} needs the features before the classifier, got None; pass "
            "model.forward_head(model.forward_features(x), pre_logits=True)"
        )
    _check_batch(loss, "features", features, targets)
    return features.to(torch.promote_types(features.dtype, torch.float32))


def soft_targets(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Shares of the classes (B, K), from labels (B,) or shares, smoothed toward equal ones."""
    shares = F.one_hot(targets, num_classes) if targets.ndim == 1 else targets
    shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
    return shares * (1 - smoothing) + smoothing / num_classes


def hard_targets(targets: Tensor) -> Tensor:
    """Labels (B,), of soft targets (B, K) the class with the largest share."""
    return targets if targets.ndim == 1 else targets.argmax(dim=1)


def check_smoothing(loss: str, label_smoothing: float) -> float:
    """Returns the share that is spread over all classes.

    Raises:
        ConfigError: It is not from 0 up to 1.
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"{loss}: label_smoothing={label_smoothing} must be from 0 up to 1")
    return label_smoothing


def _check_batch(loss: str, what: str, values: Tensor, targets: Tensor) -> None:
    if values.ndim != 2 or not len(values):
        raise ConfigError(f"{loss}: {what} must be (B, C) with B from 1, got {tuple(values.shape)}")
    if targets.ndim not in (1, 2) or len(targets) != len(values):
        raise ConfigError(
            f"{loss}: {len(values)} rows of {what} need as many targets, (B,) or (B, K), got "
            f"{tuple(targets.shape)}"
        )
    if targets.ndim == 1 and targets.dtype != torch.int64:
        raise ConfigError(f"{loss}: labels must be int64, got {targets.dtype}; use targets.long()")
