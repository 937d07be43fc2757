"""The moving average of a model's weights."""

from collections.abc import Mapping
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn


class WeightEma(ModelEmaV3):
    """timm's exponential moving average with warm-up, saved under the model's own names.

    Args:
        model: The model; its weights are the start.
        decay: Fraction of the average that a step keeps, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True)

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Returns the averaged weights."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Takes averaged weights from a checkpoint."""
        self.module.load_state_dict(state)
