"""Several processes on one task, as torchrun starts them: gloo on CPUs, NCCL on GPUs."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

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
def init_distributed(
    device: str = "auto", timeout: float = DEFAULT_TIMEOUT
) -> Iterator[DistributedContext]:
    """Joins the processes that torchrun started, or is the only one; leaves them at the end.

    Args:
        device: "auto" takes a GPU where there is one; "cpu" or "cuda".
        timeout: Seconds that a process waits for the others in an exchange.

    Raises:
        ConfigError: There is no GPU, or fewer than processes on this machine.
        ProcessError: Another process died, failed, or gave no answer for `timeout`.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = count > 1 and not dist.is_initialized()
    if started:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield DistributedContext(chosen, rank, count)
    except RuntimeError as error:
        reason = explain_lost_process(error, rank, count)
        if reason is None:
            raise
        raise ProcessError(reason) from error
    finally:
        if started:
            dist.destroy_process_group()


def explain_lost_process(error: RuntimeError, rank: int, count: int) -> str | None:
    """What to say of an error in an exchange between processes; None where it is no such error.

    Args:
        error: What PyTorch raised.
        rank: This process.
        count: How many there are.
    """
    if count == 1 or isinstance(error, WbcnetsError) or not _LOST.search(str(error)):
        return None
    others = ", ".join(str(other) for other in range(count) if other != rank)
    first = str(error).strip().splitlines()[0][:200]
    return (
        f"process {rank} of {count} had no answer from the others ({others}): one of them died, "
        f"failed, or hangs; look for its own message. Resume from the last checkpoint ({first})"
    )
