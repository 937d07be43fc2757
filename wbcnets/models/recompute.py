"""Gradient checkpointing: recompute activations in the backward pass instead of storing them.

timm's ``checkpoint`` lets batch norms see a batch twice, which counts it twice in their averages;
``run_block`` does not.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from timm.models import checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def run_block(block: Any, *inputs: Any, recompute: bool) -> Any:
    """Returns ``block(*inputs)``, optionally with its activations recomputed for the gradient.

    Under torch.compile, batch norms do see a recomputed batch twice.

    Args:
        block: A module, or a method of one.
        inputs: Its arguments.
        recompute: Whether the backward pass calls the block again.
    """
    if not recompute or torch.jit.is_scripting():
        return block(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(block, *inputs)
    module = getattr(block, "__self__", block)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _batch_statistics_kept(module)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _batch_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of a module's batch norms as they are."""
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
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
