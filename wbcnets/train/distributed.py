"""Several processes on one task, as torchrun starts them: gloo on CPUs, NCCL on GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from wbcnets.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Args:
        device: Where this process computes.
        rank: Its number.
        count: How many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes; the tensor itself where there is one."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the same answer in all."""
        if self.count == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def gather_shards(self, rows: Tensor) -> Tensor:
        """All rows in their order, from each process's own.

        Args:
            rows: (n, K) on the CPU; the rows rank, rank + count, rank + 2 count, ... of all.

        Returns:
            (N, K), each row once, whatever N is.
        """
        if self.count == 1:
            return rows
        shards: list[Tensor] = [torch.empty(0)] * self.count
        dist.all_gather_object(shards, rows)
        everything = shards[0].new_empty(sum(map(len, shards)), *shards[0].shape[1:])
        for rank, shard in enumerate(shards):
            if len(shard):
                everything[rank :: self.count] = shard
        return everything

    def wait(self) -> None:
        """Waits until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def started_processes(device: str = "auto") -> Iterator[Processes]:
    """Joins the processes that torchrun started, or is the only one; leaves them at the end.

    Args:
        device: "auto" takes a GPU where there is one; "cpu" or "cuda".

    Raises:
        ConfigError: There is no GPU, or fewer than processes on this machine.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = count > 1 and not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, rank, count)
    finally:
        if started:
            dist.destroy_process_group()


def _choose_device(device: str, local_rank: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"device={device}: PyTorch sees no GPU; use device=cpu or device=auto")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}; start torchrun with fewer processes"
        )
    return torch.device("cuda", local_rank)
