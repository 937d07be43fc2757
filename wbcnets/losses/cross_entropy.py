"""Cross entropy of the softmax, with label smoothing and soft targets."""

from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.losses.inputs import check_smoothing, require_logits


class CrossEntropyLoss(nn.Module):
    """Mean cross entropy of a batch.

    Args:
        label_smoothing: Fraction of each target that is spread over all classes.

    Raises:
        ConfigError: if the fraction is not in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_smoothing("CrossEntropyLoss", label_smoothing)

    def forward(self, features: Tensor | None, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Returns a scalar from logits (B, K) and labels (B,) or probabilities (B, K)."""
        logits = require_logits("CrossEntropyLoss", logits, targets)
        targets = targets if targets.ndim == 1 else targets.to(logits.dtype)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
