"""Several processes in one run, as torchrun starts them: gloo on CPUs, NCCL on GPUs."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wbcnets.engine.device import choose_device
from wbcnets.errors import ProcessError, WbcnetsError

# Seconds that a process waits for the others; PyTorch's own default is half an hour
DEFAULT_TIMEOUT = 600.0
_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket timeout|timed out|timeout|watchdog|"
    r"remote process exited|connectFullMesh|heartbeat",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DistributedContext:
    """This process among those of a run.

    Args:
        device: The device of this process.
        rank: Index of this process.
        world_size: Number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean of a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process; the same answer in all of them."""
        if self.world_size == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def gather_shards(self, rows: Tensor) -> Tensor:
        """Returns all rows in order, from the rows of each process.

        Args:
            rows: (n, K) on the CPU: rows rank, rank + world_size, rank + 2 world_size, ... of all.

        Returns:
            (N, K), each row once, for any N.
        """
        if self.world_size == 1:
            return rows
        shards: list[Tensor] = [torch.empty(0)] * self.world_size
        dist.all_gather_object(shards, rows)
        gathered = shards[0].new_empty(sum(map(len, shards)), *shards[0].shape[1:])
        for rank, shard in enumerate(shards):
            if len(shard):
                gathered[rank :: self.world_size] = shard
        return gathered

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns a module whose gradients are the means over all processes."""
        if self.world_size == 1:
            return module
        device = next(module.parameters()).device
        return DistributedDataParallel(
            module, device_ids=[device] if device.type == "cuda" else None
        )

    def wait(self) -> None:
        """Waits for all processes."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def init_distributed(
    device: str = "auto", timeout: float = DEFAULT_TIMEOUT
) -> Iterator[DistributedContext]:
    """Joins the processes that torchrun started, and leaves them at the end.

    Args:
        device: "auto" takes a GPU if there is one; "cpu" or "cuda".
        timeout: Seconds that a process waits for the others.

    Raises:
        ConfigError: if there is no GPU, or fewer than processes on this machine.
        ProcessError: if another process dies, fails, or does not answer for ``timeout``.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = world_size > 1 and not dist.is_initialized()
    if started:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        with explain_lost_process(rank, world_size):
            yield DistributedContext(chosen, rank, world_size)
    finally:
        if started:
            dist.destroy_process_group()


@contextmanager
def explain_lost_process(rank: int, world_size: int) -> Iterator[None]:
    """Turns PyTorch's errors about another process into one that says what to do.

    Raises:
        ProcessError: if another process dies, fails, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        ours = world_size == 1 or isinstance(error, WbcnetsError)
        if ours or not _LOST.search(str(error)):
            raise
        others = ", ".join(str(other) for other in range(world_size) if other != rank)
        first = str(error).strip().splitlines()[0][:200]
        raise ProcessError(
            f"process {rank} of {world_size} had no answer from the others ({others}): one of them "
            "died, failed, or hangs; look for its own message. Resume from the last checkpoint "
            f"({first})",
            setting="resume",
        ) from error
