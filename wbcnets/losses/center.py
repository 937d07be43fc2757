"""Center loss: pulls the features of a class to its center.

Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016; the
ResNeXt-CC paper, section "Loss function optimization", equations 8 to 10. The loss is half the
squared distance to the center of the class. Each mini-batch moves the centers toward its features.

Differences from the paper:

- Equation 8 sums over the mini-batch. Here it is the mean, like the softmax loss beside it, so the
  factor between the two does not depend on the batch size.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.losses.inputs import check_labels, hard_targets, require_features


class CenterLoss(nn.Module):
    """Mean of ``|x_i - c_yi|^2 / 2`` over a batch.

    In training, each center moves after the loss is computed, by
    ``c_j -= alpha * sum_i (c_j - x_i) / (1 + n_j)`` over the n_j images of its class in the batch.
    With several processes the sum runs over all their batches, so the centers stay equal. Centers
    are part of the state dict. Soft targets count as their most probable class.

    Args:
        num_classes: Number of centers.
        feature_dim: Width of the features.
        alpha: Step of a center, in [0, 1].
        device: Device of the centers.
        dtype: Type of the centers.

    Raises:
        ConfigError: if a number is out of range.
    """

    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        alpha: float = 0.5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or feature_dim < 1 or not 0 <= alpha <= 1:
            raise ConfigError(
                "CenterLoss: num_classes and feature_dim must be at least 1 and alpha in [0, 1], "
                f"got num_classes={num_classes}, feature_dim={feature_dim}, alpha={alpha}"
            )
        self.alpha = alpha
        centers = torch.zeros(num_classes, feature_dim, device=device, dtype=dtype)
        self.register_buffer("centers", centers)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from features (B, C) and labels (B,) or probabilities (B, K).

        Raises:
            ConfigError: if there are no features, their width is not that of the centers, or a
                target is out of range.
        """
        features = require_features("CenterLoss", features, targets)
        if features.shape[1] != self.centers.shape[1]:
            raise ConfigError(
                f"CenterLoss: features of width {features.shape[1]} for centers of width "
                f"{self.centers.shape[1]}; create the loss with feature_dim={features.shape[1]}"
            )
        check_labels("CenterLoss", targets, len(self.centers))
        labels = hard_targets(targets)
        centers = self.centers.to(features.dtype)[labels]
        loss = 0.5 * (features - centers).square().sum(dim=1).mean()
        if self.training:
            self._move_centers(features.detach(), labels)
        return loss

    @torch.no_grad()
    def _move_centers(self, features: Tensor, labels: Tensor) -> None:
        centers = self.centers.to(features.dtype)
        sums = torch.zeros_like(centers).index_add(0, labels, features)
        counts = features.new_zeros(len(centers)).index_add(
            0, labels, features.new_ones(len(labels))
        )
        if dist.is_available() and dist.is_initialized():
            both = torch.cat([sums, counts[:, None]], dim=1)
            dist.all_reduce(both)
            sums, counts = both[:, :-1], both[:, -1]
        # sum_i (c_j - x_i) / (1 + n_j)
        step = (counts[:, None] * centers - sums) / (1 + counts[:, None])
        self.centers.copy_(centers - self.alpha * step)
