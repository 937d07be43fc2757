"""Size of a model: parameters, and multiply-accumulate operations (MACs) of one image."""

from typing import Any, NamedTuple, cast

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class ModelSize(NamedTuple):
    """Parameters, and MACs of one image."""

    parameters: int
    macs: int


def measure_model(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> ModelSize:
    """Returns a model's parameters and the MACs of its matrix products, convolutions and attention.

    On the meta device nothing is computed.

    Args:
        model: A model that takes images.
        input_size: Channels, height and width of the image.
    """
    parameter = next(model.parameters())
    image = torch.empty(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train(training)
    return ModelSize(
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        macs=counter.get_total_flops() // 2,
    )


def measure_registered(name: str, num_classes: int = 1000) -> ModelSize:
    """Returns the size of a registered model at its default input, without allocating it."""
    model = timm.create_model(name, num_classes=num_classes, device="meta")
    return measure_model(model, cast(dict[str, Any], model.default_cfg)["input_size"])
