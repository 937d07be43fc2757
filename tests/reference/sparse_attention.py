"""The sparse attention module written out from equations 12 to 15, one number at a time."""

import math

from torch import Tensor, nn


def weigh_maps(attention: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> list[Tensor]:
    """The weight of each map for one sample: (maps, heads, N) -> maps numbers that sum to 1."""
    maps, heads, patches = attention.shape
    pooled = []
    for m in range(maps):
        total = attention.new_zeros(())
        for h in range(heads):
            for n in range(patches):
                total = total + attention[m, h, n] / (heads * patches)
        pooled.append(total * patches)
    hidden = _linear(pooled, fc1)
    logits = _linear([value.clamp(min=0) for value in hidden], fc2)
    largest = max(float(value.detach()) for value in logits)
    powers = [(value - largest).exp() for value in logits]
    return [power / sum(powers) for power in powers]


def combine_maps(attention: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> list[list[Tensor]]:
    """Equation 14 for one sample: (maps, heads, N) -> heads lists of N numbers."""
    alpha = weigh_maps(attention, fc1, fc2)
    _, heads, patches = attention.shape
    combined = []
    for h in range(heads):
        row = []
        for n in range(patches):
            weight = attention.new_zeros(())
            for m in range(len(alpha)):
                weight = weight + alpha[m] * attention[m, h, n]
            row.append(weight)
        combined.append(row)
    return combined


def choose(weights: list[list[Tensor]]) -> list[int]:
    """Per head, the first patch of the largest weight."""
    chosen = []
    for row in weights:
        best, place = -math.inf, 0
        for n, weight in enumerate(row):
            if float(weight.detach()) > best:
                best, place = float(weight.detach()), n
        chosen.append(place)
    return chosen


def straight_through_objective(
    weights: list[list[Tensor]], patches: Tensor, gradient: Tensor
) -> Tensor:
    """What the weights descend: the gradient's inner product with the mix of all patches.

    Args:
        weights: Per head, N weights.
        patches: (N, C).
        gradient: Of the kept tokens, (heads, C).
    """
    objective = patches.new_zeros(())
    for h, row in enumerate(weights):
        total = sum(row)
        for n, weight in enumerate(row):
            for c in range(patches.shape[1]):
                objective = objective + weight / total * float(patches[n, c] * gradient[h, c])
    return objective


def _linear(values: list[Tensor], layer: nn.Linear) -> list[Tensor]:
    outputs = []
    for row in range(layer.out_features):
        total = layer.bias[row]
        for column, value in enumerate(values):
            total = total + layer.weight[row, column] * value
        outputs.append(total)
    return outputs
