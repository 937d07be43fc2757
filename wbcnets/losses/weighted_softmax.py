"""W-softmax: cross entropy in which the rarer class counts more.

The ResNeXt-CC paper, section "Loss function optimization", equations 5 to 7: of two classes, each
one's losses are multiplied by the other's share of the training set. For K classes here by
``(1 - share) / (K - 1)``, which is the same for two, and sums to 1 over the classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import check_smoothing, require_logits, soft_targets


def complementary_fractions(class_counts: Sequence[int]) -> Tensor:
    """The weights of w-softmax from the training set's counts: (K,), which sum to 1.

    Raises:
        ConfigError: There are fewer than two classes, a count is negative, or all are 0.
    """
    counts = torch.tensor([float(count) for count in class_counts])
    if len(counts) < 2 or bool((counts < 0).any()) or not bool(counts.sum() > 0):
        raise ConfigError(
            f"class_counts={list(class_counts)}: w-softmax needs the training set's number of "
            "images for two classes or more"
        )
    return (1 - counts / counts.sum()) / (len(counts) - 1)


class WeightedSoftmaxLoss(nn.Module):
    """Mean over a batch of the cross entropies, each times its class's weight.

    The mean is over the images, as in the paper, not over their weights as in PyTorch's weighted
    cross entropy.

    Args:
        class_counts: Images of each class in the training set.
        class_weights: Weights of one's own in place of those from the counts.
        label_smoothing: Share of each target that is spread over all classes.

    Raises:
        ConfigError: Neither or both of counts and weights are given, or one is out of range.
    """

    class_weights: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if (class_counts is None) == (class_weights is None):
            raise ConfigError("WeightedSoftmaxLoss: give class_counts, or class_weights")
        if class_counts is not None:
            weights = complementary_fractions(class_counts)
        else:
            weights = torch.tensor([float(weight) for weight in class_weights or ()])
        if bool((weights < 0).any()) or not bool(weights.isfinite().all()):
            raise ConfigError(f"WeightedSoftmaxLoss: class_weights={class_weights} must be from 0")
        self.label_smoothing = check_smoothing("WeightedSoftmaxLoss", label_smoothing)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from logits (B, K) and labels (B,) or shares (B, K).

        Raises:
            ConfigError: There are no logits, or of another number of classes than weights.
        """
        logits = require_logits("WeightedSoftmaxLoss", logits, targets)
        if logits.shape[1] != len(self.class_weights):
            raise ConfigError(
                f"WeightedSoftmaxLoss: {len(self.class_weights)} weights for logits of "
                f"{logits.shape[1]} classes"
            )
        shares = soft_targets(targets, logits.shape[1], self.label_smoothing).to(logits.dtype)
        weighted = shares * self.class_weights.to(logits.dtype)
        return -(weighted * logits.log_softmax(dim=1)).sum(dim=1).mean()
