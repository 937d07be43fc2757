"""Worker processes that die or hang end in an error that names what they were reading."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wbcnets.errors import DataError

T = TypeVar("T")
# Seconds in which a worker must give a batch; an image takes milliseconds, a slow disk seconds
DEFAULT_TIMEOUT = 300.0
MAX_WORKERS = 256


class WatchedDataset(Dataset[T], Generic[T]):
    """A dataset that notes, in shared memory, which item each worker is at.

    Args:
        dataset: The items.
        describe: From an item's index to what an error should call it, such as its file.
    """

    def __init__(self, dataset: Dataset[T], describe: Callable[[Any], str]) -> None:
        self.dataset = dataset
        self.describe = describe
        self._board = torch.full((MAX_WORKERS,), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> T:
        worker = get_worker_info()
        if worker is None or worker.id >= MAX_WORKERS:
            return self.dataset[index]
        self._board[worker.id] = index[0] if isinstance(index, tuple) else index
        item = self.dataset[index]
        self._board[worker.id] = -1
        return item

    def in_work(self) -> list[str]:
        """What the workers are at, by name."""
        return [self.describe(index) for index in self._board.tolist() if index >= 0]


def watched_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader whose dataset may be a `WatchedDataset`.

    Raises:
        DataError: A worker died, or gave nothing for the loader's `timeout`; the message names the
            items that were being read. Other errors come through as they are.
    """
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            reason = _worker_failure(str(error), loader)
            if reason is None:
                raise
            if "timed out" in str(error):
                _kill_workers()
            raise DataError(reason) from error
        yield batch


def _worker_failure(text: str, loader: DataLoader[Any]) -> str | None:
    """The message for an error of PyTorch's loader about its workers, None for all others."""
    dataset = loader.dataset
    items = dataset.in_work() if isinstance(dataset, WatchedDataset) else []
    where = f"while reading {', '.join(items)}" if items else "between two items"
    if "timed out" in text:
        return (
            f"a worker gave no batch for {loader.timeout:g} s, {where} - look at these files and "
            "at the disk, or raise the loader's timeout"
        )
    if "exited unexpectedly" in text or "is killed by signal" in text:
        return (
            f"a worker process died, {where} - out of memory is the usual cause: use fewer "
            f"workers or smaller images ({text.strip().splitlines()[0]})"
        )
    return None


def _kill_workers() -> None:
    """A hung worker may ignore requests to end, and would keep this process from ending."""
    for child in multiprocessing.active_children():
        child.kill()
