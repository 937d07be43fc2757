"""Sparse attention module: of all patches, the last block sees one per head, and the class token.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3.3, figure 4, equations 12 to 15.

Differences from the paper:
- Of each attention map only the class token's row is taken, since equation 15's choice uses
  nothing else. The paper pools complete maps, whose rows are softmax distributions: the mean of any
  such map is the constant 1 / (N + 1), which tells the two linear layers nothing. The class token's
  row is pooled over the patches instead (times N, so that evenly spread attention gives about 1):
  the share of its attention that does not stay with itself.
- The weights of the maps are "normalized" in the paper; here by a softmax.
- Choosing the largest weight gives the two linear layers no gradient. So the choice is one-hot
  forward and equation 14's weights, normalized over the patches, backward (a straight-through
  estimate): a kept token's value and its own gradient are those of the choice, bit by bit, and a
  weight's gradient is the inner product of its patch and the kept token's gradient. Scaling the
  kept token by its weight would teach next to nothing, as the last block's norm undoes it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError

# A class token that attends to patches less than this in all counts as this: no gradient explodes
_SMALLEST_SUM = 1e-6


class SparseAttention(nn.Module):
    """Keeps the class token, and per head the patch that it attends to most.

    Args:
        num_maps: Attention maps that are weighed, one per earlier block.
        hidden_features: Width between the two linear layers; None takes ``num_maps``.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A size is below 1.
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
            attention: (B, maps, heads, N), what the class token of each earlier block attends to,
                without its attention to itself.

        Returns:
            The class token and the kept tokens (B, 1 + heads, C), and which patches were kept
            (B, heads), from 0 to N - 1.
        """
        weights = self.combine(attention)
        indices = weights.argmax(dim=-1)
        places = (indices + 1).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        kept = tokens.gather(1, places) + self._straight_through(tokens[:, 1:], weights)
        return torch.cat([tokens[:, :1], kept], dim=1), indices

    def combine(self, attention: Tensor) -> Tensor:
        """Weighs the maps and adds them (equation 14): (B, maps, heads, N) -> (B, heads, N)."""
        with _full_precision(attention.device.type):
            # The mean over N times N is the sum
            pooled = attention.sum(dim=-1).mean(dim=-1).to(self.fc1.weight.dtype)
            logits = self.fc2(self.act(self.fc1(pooled)))
            alpha = logits.to(attention.dtype).softmax(dim=-1)
            return (alpha[:, :, None, None] * attention).sum(dim=1)

    def _straight_through(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Zeros (B, heads, C), through which the weights (B, heads, N) get a gradient."""
        with _full_precision(patches.device.type):
            total = weights.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SUM)
            mixed = (weights / total) @ patches.detach().to(weights.dtype)
            return (mixed - mixed.detach()).to(patches.dtype)


def _full_precision(device: str) -> AbstractContextManager[None]:
    """Turns autocast off: large patches, and gradients of their size, overflow in half precision.

    Infinity less itself would be no zero.
    """
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
