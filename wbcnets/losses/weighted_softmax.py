"""W-softmax: cross entropy in which the rarer class counts more.

The ResNeXt-CC paper, section "Loss function optimization", equations 5 to 7: with two classes, each
loss is multiplied by the other class's fraction of the training set.

Differences from the paper:

- Any number of classes K: the weight is ``(1 - fraction) / (K - 1)``. That is the paper's weight
  for two classes, and the weights sum to 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import are_weights, check_smoothing, require_logits, soft_targets


def complementary_fractions(class_counts: Sequence[int]) -> Tensor:
    """Returns the weights of w-softmax from the training set's counts: (K,), their sum is 1.

    Raises:
        ConfigError: if there are fewer than two classes, a count is negative, or all are 0.
    """
    counts = torch.tensor([float(count) for count in class_counts])
    if len(counts) < 2 or bool((counts < 0).any()) or not bool(counts.sum() > 0):
        raise ConfigError(
            f"class_counts={list(class_counts)}: w-softmax needs the number of training images of "
            "each of two or more classes"
        )
    return (1 - counts / counts.sum()) / (len(counts) - 1)


class WeightedSoftmaxLoss(nn.Module):
    """Mean over a batch of the cross entropies, each multiplied by the weight of its class.

    The sum is divided by the number of images, as in the paper, not by the sum of their weights as
    in PyTorch's weighted cross entropy.

    Args:
        class_counts: Images of each class in the training set.
        class_weights: Weights to use in place of those from the counts.
        label_smoothing: Fraction of each target that is spread over all classes.

    Raises:
        ConfigError: if not exactly one of counts and weights is given, or a number is out of range.
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
            raise ConfigError("WeightedSoftmaxLoss: give either class_counts or class_weights")
        if class_counts is not None:
            weights = complementary_fractions(class_counts)
        else:
            weights = torch.tensor([float(weight) for weight in class_weights or ()])
        if not are_weights(weights):
            raise ConfigError(
                f"WeightedSoftmaxLoss: class_weights={class_weights} must be finite and at least "
                "0, not all 0"
            )
        self.label_smoothing = check_smoothing("WeightedSoftmaxLoss", label_smoothing)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from logits (B, K) and labels (B,) or probabilities (B, K).

        Raises:
            ConfigError: if there are no logits, or their classes do not match the weights.
        """
        logits = require_logits("WeightedSoftmaxLoss", logits, targets)
        if logits.shape[1] != len(self.class_weights):
            raise ConfigError(
                f"WeightedSoftmaxLoss: {len(self.class_weights)} weights for logits of "
                f"{logits.shape[1]} classes"
            )
        probabilities = soft_targets(targets, logits.shape[1], self.label_smoothing)
        weighted = probabilities.to(logits.dtype) * self.class_weights.to(logits.dtype)
        return -(weighted * logits.log_softmax(dim=1)).sum(dim=1).mean()
