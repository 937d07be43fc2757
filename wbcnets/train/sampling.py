"""The images of every step, a function of seed and epoch alone.

Two numbers, epoch and step, are a position in a run. The same images are in the same steps for any
number of processes and of parts of an accumulated step.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from wbcnets.errors import ConfigError


class StepSampler(Sampler[list[int]]):
    """The batches of one process, each a part of a step.

    Each epoch is a new permutation, without the images that do not fill a last step. Balanced
    epochs have as many images of each class.

    Args:
        labels: Label of each image.
        batch_size: Images of a step, over all processes and parts.
        grad_accum_steps: Parts of a step.
        seed: Seed of the permutations.
        rank: This process.
        world_size: Number of processes.
        quotas: Images of each class in an epoch, see ``balanced_quotas``; None for all images.

    Raises:
        ConfigError: if steps cannot be divided equally, or are larger than an epoch.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        *,
        grad_accum_steps: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        quotas: Sequence[int] | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.batch_size, self.grad_accum_steps = batch_size, grad_accum_steps
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.quotas = None if quotas is None else tuple(quotas)
        self.epoch_size = len(self.labels) if self.quotas is None else sum(self.quotas)
        parts = grad_accum_steps * world_size
        if batch_size % parts:
            raise ConfigError(
                f"training.batch_size={batch_size} cannot be divided into {grad_accum_steps} parts "
                f"(training.grad_accum_steps) on {world_size} processes; use a multiple of {parts}"
            )
        if batch_size > self.epoch_size:
            raise ConfigError(
                f"training.batch_size={batch_size} is more than the {self.epoch_size} training "
                "images of an epoch; use a smaller one"
            )
        self.part_size = batch_size // parts
        self.steps_per_epoch = self.epoch_size // batch_size
        self._epoch, self._step = 0, 0

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Sets the epoch and step at which the next iteration begins."""
        self._epoch, self._step = epoch, step

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the indices of an epoch, (steps_per_epoch * batch_size,)."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.quotas is None:
            indices = generator.permutation(self.epoch_size)
        else:
            drawn = [
                generator.permutation(np.flatnonzero(self.labels == label))[:number]
                for label, number in enumerate(self.quotas)
            ]
            indices = generator.permutation(np.concatenate(drawn))
        return indices[: self.steps_per_epoch * self.batch_size]

    def step_indices(self, epoch: int, step: int) -> list[int]:
        """Returns the images of one step, over all processes."""
        start = step * self.batch_size
        return self.order(epoch)[start : start + self.batch_size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        parts = self.order(self._epoch).reshape(
            -1, self.grad_accum_steps, self.world_size, self.part_size
        )
        for step in parts[self._step :]:
            for part in step:
                yield part[self.rank].tolist()

    def __len__(self) -> int:
        return (self.steps_per_epoch - self._step) * self.grad_accum_steps


def balanced_quotas(counts: Sequence[int]) -> list[int]:
    """Returns the images of each class in a balanced epoch of about the usual length.

    Args:
        counts: Images of each class; a class without images gets none.
    """
    present = sum(1 for count in counts if count)
    return [round(sum(counts) / present) if count else 0 for count in counts]
