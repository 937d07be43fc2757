"""Sparse attention module: the last block sees only the class token and one patch per head.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.3, figure 4, equations 12 to 15.

Differences from the paper:

- Only the class token's row of each attention map is used, because equation 15 chooses by nothing
  else. The paper pools complete maps, whose rows are softmax distributions: the mean of any such
  map is the constant 1 / (N + 1), which tells the two linear layers nothing. Here the class token's
  row is summed over the patches: the fraction of its attention that leaves the class token.
- The weights of the maps are "normalized" in the paper; here by a softmax.
- Choosing the largest weight gives the two linear layers no gradient. The choice is therefore
  one-hot in the forward pass, and equation 14's weights, normalized over the patches, in the
  backward pass (a straight-through estimator). A kept token's value and its own gradient are
  exactly those of the choice; a weight's gradient is the inner product of its patch and the kept
  token's gradient. Scaling the kept token by its weight would teach next to nothing, because the
  last block's norm undoes it.
"""

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.ops.autocast import autocast_off

# Lower limit of the class token's attention to all patches, so that no gradient explodes
_SMALLEST_SUM = 1e-6


class SparseAttention(nn.Module):
    """Keeps the class token and, per head, the patch that it attends to most.

    Args:
        num_maps: Number of attention maps, one per earlier block.
        hidden_features: Width between the two linear layers; None means ``num_maps``.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a size is below 1.
    """

    def __init__(
        self,
        num_maps: int,
        hidden_features: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = num_maps if hidden_features is None else hidden_features
        if num_maps < 1 or hidden < 1:
            raise ConfigError(
                "SparseAttention: num_maps and hidden_features must be at least 1, got "
                f"num_maps={num_maps}, hidden_features={hidden_features}; the module needs at "
                "least one earlier block"
            )
        self.num_maps = num_maps
        self.fc1 = nn.Linear(num_maps, hidden, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_maps, device=device, dtype=dtype)

    def forward(self, tokens: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses one patch per head (equation 15).

        Args:
            tokens: (B, 1 + N, C), the class token first.
            attention: (B, maps, heads, N), the class token's attention to the patches in each
                earlier block.

        Returns:
            The class token and the kept tokens (B, 1 + heads, C), and the indices of the kept
            patches (B, heads) in [0, N).
        """
        weights = self.combine(attention)
        indices = weights.argmax(dim=-1)
        rows = (indices + 1).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        kept = tokens.gather(1, rows) + self._straight_through(tokens[:, 1:], weights)
        return torch.cat([tokens[:, :1], kept], dim=1), indices

    def combine(self, attention: Tensor) -> Tensor:
        """Returns the weighted sum of the maps, (B, maps, heads, N) -> (B, heads, N).

        Equation 14.
        """
        with autocast_off(attention):
            pooled = attention.sum(dim=-1).mean(dim=-1).to(self.fc1.weight.dtype)
            logits = self.fc2(self.act(self.fc1(pooled)))
            alpha = logits.to(attention.dtype).softmax(dim=-1)
            return (alpha[:, :, None, None] * attention).sum(dim=1)

    def _straight_through(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Returns zeros (B, heads, C) through which the weights (B, heads, N) get a gradient."""
        # Large patches overflow in half precision, and infinity minus itself is not zero
        with autocast_off(patches):
            total = weights.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SUM)
            mixed = (weights / total) @ patches.detach().to(weights.dtype)
            return (mixed - mixed.detach()).to(patches.dtype)
