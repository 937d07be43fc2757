"""A data loader that names the files its workers were reading when one dies or hangs."""

import atexit
import multiprocessing.queues
import multiprocessing.util
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wbcnets.engine.signals import SIGNALS
from wbcnets.errors import ConfigError, DataError

T = TypeVar("T")
# Seconds in which a worker must give a batch; an image takes milliseconds, a slow disk seconds
DEFAULT_TIMEOUT = 300.0
MAX_WORKERS = 64
_NOTICE_BYTES = 400


def check_workers(workers: int, name: str, setting: str = "") -> int:
    """Returns a number of loader processes.

    Args:
        workers: The number.
        name: Names it in the message, such as "data.workers".
        setting: The Python argument that decides it, see ``WbcnetsError``.

    Raises:
        ConfigError: if it is so large that starting them would stall the machine.
    """
    if workers > MAX_WORKERS:
        raise ConfigError(
            f"{name}={workers} should be at most {MAX_WORKERS} processes; this machine has "
            f"{os.cpu_count()} CPUs",
            setting=setting,
        )
    return workers


class WatchedLoader(DataLoader[Any]):
    """PyTorch's loader with workers of one thread each that are named when they fail.

    Args:
        dataset: The items.
        describe: Returns the name of an item, such as its file, from its index.
        num_workers: Worker processes; 0 loads in this process.
        timeout: Seconds in which a worker must give a batch; 0 waits forever.
        prefetch_factor: Batches that each worker loads in advance.
        options: More options of ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        describe: Callable[[int], str],
        num_workers: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
        prefetch_factor: int = 2,
        **options: Any,
    ) -> None:
        self.items = _NotedItems(dataset, describe)
        if num_workers:
            options |= {
                "timeout": timeout,
                "prefetch_factor": prefetch_factor,
                "persistent_workers": True,
                "worker_init_fn": partial(_start_worker, self.items.notice),
            }
        super().__init__(self.items, num_workers=num_workers, **options)

    def __iter__(self) -> Any:
        """Yields batches.

        Raises:
            DataError: if a worker dies, or gives no batch in time; names the items it was reading.
        """
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                reason = self._explain(str(error)) if isinstance(error, RuntimeError) else None
                _kill_workers(self.items.pids())
                if reason is None:
                    raise
                raise DataError(reason) from error
            yield batch

    def _explain(self, text: str) -> str | None:
        """Returns the message for an error about workers, None for other errors."""
        if "exited unexpectedly" in text and self.items.notice.any():
            reason = bytes(self.items.notice.tolist()).rstrip(b"\0").decode(errors="replace")
            return (
                f"a worker cannot hand on a batch ({reason}): use fewer workers, or raise the limit"
            )
        items = self.items.in_progress()
        where = f"while reading {', '.join(items)}" if items else "between two items"
        if "timed out" in text:
            return (
                f"a worker gave no batch for {self.timeout:g} s, {where}: look at these files and "
                "at the disk, or raise the loader's timeout"
            )
        if "exited unexpectedly" in text or "is killed by signal" in text:
            return (
                f"a worker process died, {where}: it probably ran out of memory, so use fewer "
                f"workers or smaller images ({text.strip().splitlines()[0]})"
            )
        return None


class _NotedItems(Dataset[T], Generic[T]):
    """A dataset that notes, in shared memory, the item that each worker is reading."""

    def __init__(self, dataset: Dataset[T], describe: Callable[[int], str]) -> None:
        self.dataset = dataset
        self.describe = describe
        self._current = torch.full((MAX_WORKERS,), -1, dtype=torch.int64).share_memory_()
        # A worker's last words, UTF-8
        self.notice = torch.zeros(_NOTICE_BYTES, dtype=torch.uint8).share_memory_()
        self._pids = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> T:
        worker = get_worker_info()
        if worker is None or worker.id >= MAX_WORKERS:
            return self.dataset[index]
        self._pids[worker.id] = os.getpid()
        self._current[worker.id] = index[0] if isinstance(index, tuple) else index
        item = self.dataset[index]
        self._current[worker.id] = -1
        return item

    def in_progress(self) -> list[str]:
        """Returns the names of the items that workers are reading."""
        return [self.describe(index) for index in self._current.tolist() if index >= 0]

    def pids(self) -> set[int]:
        """Returns the process ids of the workers."""
        return set(self._pids.tolist())


def _start_worker(notice: Tensor, worker: int) -> None:
    """Limits a worker to one thread; the main process handles signals and ends its workers."""
    # The queue drops a batch that it cannot send, and the main process would wait for it
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        partial(_end_worker, notice)
    )
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_worker(notice: Tensor, error: Exception, item: object) -> None:
    """Ends a worker that cannot send a batch, as without memory or files for it."""
    text = f"{type(error).__name__}: {error}".encode()[:_NOTICE_BYTES]
    notice[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    os._exit(1)


def _kill_workers(pids: Collection[int] | None = None) -> None:
    """Kills workers, which ignore SIGTERM and could keep this process from ending.

    Args:
        pids: Their process ids; None for all daemonic children.
    """
    for child in multiprocessing.active_children():
        if child.daemon if pids is None else child.pid in pids:
            # PyTorch's signal handler reports the death of its first worker
            with suppress(RuntimeError):
                child.kill()
                child.join()


# Runs before the exit handler of multiprocessing, which terminates the workers and waits for them
atexit.register(_kill_workers)
