"""Limits for models whose sizes come from a file, checked before they take memory or time.

A model is first built on the meta device, where tensors have shapes but no values. Every parameter
and buffer is counted when its module registers it, so that a model of a billion layers ends after
the first ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from wbcnets.io.parallel import free_memory

_BYTES = 4
# Layers that a model replaces while it is built, and buffers that files do not hold
_SPARE_VALUES = 50_000_000
_SPARE_TENSORS = 1000


class ModelTooLargeError(ValueError):
    """A model exceeds its limit."""


@dataclass(frozen=True)
class ModelLimit:
    """The most that a model may hold.

    Args:
        values: Numbers in parameters and buffers.
        tensors: Parameters and buffers.
        reason: Tells what sets the limit.
    """

    values: float
    tensors: float
    reason: str


def limit_by_weights(state: Mapping[str, Tensor]) -> ModelLimit:
    """Returns the limit for a model that takes all weights of a file, with room to spare."""
    values = sum(tensor.numel() for tensor in state.values())
    return ModelLimit(
        2 * values + _SPARE_VALUES,
        2 * len(state) + _SPARE_TENSORS,
        f"its file holds {values:,} in {len(state):,} tensors",
    )


def limit_by_memory() -> ModelLimit:
    """Returns the limit for a model that has to fit into the machine's free memory."""
    free = free_memory()
    shown = "unknown" if math.isinf(free) else f"{free / 2**30:.1f} GiB"
    return ModelLimit(free / _BYTES, 20_000, f"the free memory is {shown}")


def build_limited(build: Callable[..., nn.Module], limit: ModelLimit, **weights: Any) -> nn.Module:
    """Returns the model that a function builds, after a trial on the meta device.

    Args:
        build: Builds the model.
        limit: The most that it may hold.
        weights: Keywords of ``build`` that make it load weights; the trial is without them.

    Raises:
        ModelTooLargeError: if it holds more than the limit.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _counted(limit) as exceeded:
        try:
            build()
        # Some models of timm need values while they are built, and fail on the meta device alone;
        # odd keywords fail in the same way below
        except Exception:
            if exceeded:
                raise
    with _counted(limit):
        return build(**weights)


@contextmanager
def _counted(limit: ModelLimit) -> Iterator[list[str]]:
    """Yields a list that is no longer empty once a model exceeds the limit."""
    values = tensors = 0
    exceeded: list[str] = []

    def count(module: nn.Module, name: str, tensor: Any) -> None:
        nonlocal values, tensors
        if tensor is None:
            return
        values, tensors = values + tensor.numel(), tensors + 1
        if values > limit.values or tensors > limit.tensors:
            exceeded.append(
                f"it would hold more than {values:,} numbers in {tensors:,} tensors, but "
                f"{limit.reason}"
            )
            raise ModelTooLargeError(exceeded[0])

    handles = [
        register(count)
        for register in (
            register_module_parameter_registration_hook,
            register_module_buffer_registration_hook,
        )
    ]
    try:
        yield exceeded
    finally:
        for handle in handles:
            handle.remove()
