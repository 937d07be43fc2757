"""Gradient checkpointing: activations made anew in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from timm.models import checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute(block: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """Calls a function of a block, which the backward pass will call once more.

    The averages of its batch norms see the batch once, except under torch.compile, which has no
    place for the difference.
    """
    if torch.jit.is_scripting():
        return function(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(function, *inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _batch_statistics_kept(block)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _batch_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Lets a block run again without its batch norms' averages seeing the batch twice."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [cast(Tensor, norm.num_batches_tracked).clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(count)
