"""Checks of a classifier loss's arguments, and conversion between its two kinds of targets.

Every loss is called as ``loss(features, logits, targets)``, so losses on features and losses on
logits combine. On a GPU the checks read shapes and types only, so that nothing waits for values.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.ops.autocast import widened


def require_logits(loss: str, logits: Tensor | None, targets: Tensor) -> Tensor:
    """Returns the logits (B, K) in float32 or wider.

    Raises:
        ConfigError: if they are missing or do not match the targets, or a target is out of range.
    """
    if logits is None:
        raise ConfigError(f"{loss} needs the logits, got None")
    _check_batch(loss, "logits", logits, targets)
    if targets.ndim == 2 and targets.shape[1] != logits.shape[1]:
        raise ConfigError(
            f"{loss}: soft targets {tuple(targets.shape)} and logits {tuple(logits.shape)} differ "
            "in their number of classes"
        )
    check_labels(loss, targets, logits.shape[1])
    return widened(logits)


def require_features(loss: str, features: Tensor | None, targets: Tensor) -> Tensor:
    """Returns the features (B, C) in float32 or wider.

    Raises:
        ConfigError: if they are missing or do not match the targets.
    """
    if features is None:
        raise ConfigError(
            f"{loss} needs the features before the classifier, got None; pass "
            "model.forward_head(model.forward_features(x), pre_logits=True)"
        )
    _check_batch(loss, "features", features, targets)
    return widened(features)


def soft_targets(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Returns class probabilities (B, K) from labels (B,) or probabilities, smoothed."""
    probabilities = F.one_hot(targets, num_classes) if targets.ndim == 1 else targets
    wide = torch.promote_types(probabilities.dtype, torch.float32)
    return probabilities.to(wide) * (1 - smoothing) + smoothing / num_classes


def hard_targets(targets: Tensor) -> Tensor:
    """Returns labels (B,); soft targets (B, K) become their most probable class."""
    return targets if targets.ndim == 1 else targets.argmax(dim=1)


def check_smoothing(loss: str, label_smoothing: float) -> float:
    """Returns the label smoothing.

    Raises:
        ConfigError: if it is not in [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"{loss}: label_smoothing={label_smoothing} must be in [0, 1)")
    return label_smoothing


def check_labels(loss: str, targets: Tensor, num_classes: int) -> None:
    """Checks labels (B,) and probabilities (B, K) that are on the CPU; a GPU would have to wait.

    Compiled code does not check them: whether to raise would depend on values that are not known.

    Raises:
        ConfigError: if a label is not in [0, num_classes), or a probability is not in [0, 1].
    """
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    largest = num_classes - 1 if targets.ndim == 1 else 1
    # So that NaN counts as out of range
    wrong = targets[~((targets >= 0) & (targets <= largest + 1e-3))]
    if wrong.numel():
        kind = "labels" if targets.ndim == 1 else "probabilities"
        raise ConfigError(
            f"{loss}: {kind} such as {wrong[0].item()} are out of range; use 0 to {largest}"
        )


def are_weights(values: Tensor) -> bool:
    """Returns whether numbers can weigh classes: finite, at least 0, and not all 0."""
    return bool((values.isfinite() & (values >= 0)).all()) and bool((values > 0).any())


def _check_batch(loss: str, name: str, values: Tensor, targets: Tensor) -> None:
    if values.ndim != 2 or not len(values):
        raise ConfigError(
            f"{loss}: {name} must be (B, C) with B at least 1, got {tuple(values.shape)}"
        )
    if targets.ndim not in (1, 2) or len(targets) != len(values):
        raise ConfigError(
            f"{loss}: {len(values)} rows of {name} need as many targets, (B,) or (B, K), got "
            f"{tuple(targets.shape)}"
        )
    if targets.ndim == 1 and targets.dtype != torch.int64:
        raise ConfigError(f"{loss}: labels must be int64, got {targets.dtype}; use targets.long()")
