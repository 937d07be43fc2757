"""Losses by name, alone or as weighted sums; the papers' combinations have names too."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.losses.center import CenterLoss
from wbcnets.losses.contrastive import ContrastiveLoss
from wbcnets.losses.cross_entropy import CrossEntropyLoss
from wbcnets.losses.focal import FocalLoss
from wbcnets.losses.weighted_softmax import WeightedSoftmaxLoss

# Each loss, and the facts about dataset and model that it needs
_LOSSES: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "center": (CenterLoss, ("num_classes", "feature_dim")),
    "contrastive": (ContrastiveLoss, ()),
    "cross_entropy": (CrossEntropyLoss, ()),
    "focal": (FocalLoss, ()),
    "weighted_softmax": (WeightedSoftmaxLoss, ("class_counts",)),
}

# lambda = 1 and beta = 0.05 in ResNeXt-CC; equation 16 of the sparse ViT paper has no factors
COMBINATIONS: dict[str, dict[str, float]] = {
    "conv_sparse_vit": {"cross_entropy": 1.0, "contrastive": 1.0},
    "resnext_cc": {"weighted_softmax": 1.0, "center": 0.05},
    "sckansformer": {"cross_entropy": 1.0},
}


class CombinedLoss(nn.Module):
    """A weighted sum of losses.

    Args:
        losses: The losses by name.
        weights: Their factors by the same names.

    Raises:
        ConfigError: if there is no loss, the names differ, or a factor is not finite and above 0.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not losses or set(losses) != set(weights):
            raise ConfigError(
                f"CombinedLoss: losses {sorted(losses)} and weights {sorted(weights)} must have "
                "the same names, at least one"
            )
        for name, weight in weights.items():
            if not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
                raise ConfigError(f"CombinedLoss: {name}={weight!r} should be finite and above 0")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def parts(
        self, features: Tensor | None, logits: Tensor | None, targets: Tensor
    ) -> dict[str, Tensor]:
        """Returns the weighted losses by name, scalars; their sum is the loss."""
        return {
            name: self.weights[name] * loss(features, logits, targets)
            for name, loss in self.losses.items()
        }

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns the weighted sum, a scalar.

        Args:
            features: Pooled features before the classifier, (B, C); None if no loss needs them.
            logits: (B, K); None if no loss needs them.
            targets: Labels (B,) in int64, or class probabilities (B, K).
        """
        return torch.stack(list(self.parts(features, logits, targets).values())).sum()


def loss_names() -> list[str]:
    """Returns the names that ``create_loss`` knows, sorted."""
    return sorted({*_LOSSES, *COMBINATIONS})


def create_loss(
    spec: str | Mapping[str, float],
    *,
    num_classes: int,
    feature_dim: int | None = None,
    class_counts: Sequence[int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> CombinedLoss:
    """Creates a loss by name, or a weighted sum of several.

    Args:
        spec: The name of a loss or of a paper's combination, or losses and their factors.
        num_classes: Number of classes.
        feature_dim: Width of the features before the classifier; the center loss needs it.
        class_counts: Images of each class in the training set; w-softmax needs them.
        options: Keywords of the losses by name, such as ``{"contrastive": {"threshold": 0.3}}``.

    Raises:
        ConfigError: if a name or keyword is unknown, or a loss lacks something that it needs.
    """
    weights = COMBINATIONS.get(spec, {spec: 1.0}) if isinstance(spec, str) else dict(spec)
    options = options or {}
    unknown = [name for name in (*weights, *options) if name not in _LOSSES]
    if unknown:
        raise ConfigError(f"loss {unknown[0]!r} is unknown; use one of {loss_names()}")
    unused = sorted(set(options) - set(weights))
    if unused:
        raise ConfigError(
            f"there are options for the loss {unused[0]!r}, but the losses are {sorted(weights)}"
        )
    facts = {"num_classes": num_classes, "feature_dim": feature_dim, "class_counts": class_counts}
    losses = {name: _create_one(name, facts, options.get(name, {})) for name in weights}
    return CombinedLoss(losses, weights)


def _create_one(name: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    loss_class, needs = _LOSSES[name]
    needed = {key: facts[key] for key in needs}
    if "class_weights" in options:
        needed.pop("class_counts", None)
    missing = [key for key, value in needed.items() if value is None]
    if missing:
        raise ConfigError(f"the loss {name!r} needs {missing[0]}; pass it to create_loss")
    try:
        return loss_class(**{**needed, **options})
    except ConfigError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"options of the loss {name!r}: {dict(options)}: {error}") from error
