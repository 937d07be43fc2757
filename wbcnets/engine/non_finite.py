"""Training steps whose loss or gradients are not finite: undone, counted, and kept for a look."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class BufferBackup:
    """Copies running statistics and centers, to undo a step that is not finite.

    Args:
        modules: Their floating-point buffers are copied.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._buffers = [
            buffer
            for module in modules
            for buffer in module.buffers()
            if buffer.is_floating_point()
        ]
        self._copies = [buffer.detach().clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Copies the current values."""
        self._each(lambda buffer, copy: copy.copy_(buffer))

    def restore(self) -> None:
        """Puts the copied values back."""
        self._each(lambda buffer, copy: buffer.copy_(copy))

    @torch.no_grad()
    def _each(self, move: Callable[[Tensor, Tensor], Any]) -> None:
        for buffer, copy in zip(self._buffers, self._copies):
            move(buffer, copy)
