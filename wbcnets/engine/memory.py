"""Errors of full memory, and of other limits of the machine, that say what to reduce."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wbcnets.errors import OutOfMemoryError

# Messages of PyTorch's CPU allocators and of oneDNN; GPU allocators have an error type of their own
_CPU_MESSAGES = re.compile(
    r"can't allocate memory|not enough memory|std::bad_alloc|Cannot allocate memory"
    r"|could not (create|execute) a (primitive|memory object)$"
)
_SHORTAGES = {
    "Too many open files": "too many files are open: raise the limit, see ulimit -n",
    "File too large": "files may not grow as they must: raise the limit, see ulimit -f",
    "No space left on device": "the disk or the shared memory is full: free some, see df",
    "can't start new thread": "no more threads can be started: raise the limits, see ulimit -u -v",
}


@contextmanager
def explain_oom(hint: str) -> Iterator[None]:
    """Turns errors of full memory into one that says what was tried and what to reduce.

    Args:
        hint: The sizes that were tried, and the settings that reduce them.

    Raises:
        OutOfMemoryError: if the memory is full; weights and checkpoints are unchanged.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_oom(error):
            raise
        first = str(error).strip().splitlines()[:1]
        raise OutOfMemoryError(
            f"out of memory {hint}. The last checkpoint is complete: resume from it "
            f"({''.join(first)[:200] or type(error).__name__}; peak: {_peak_memory()})",
            setting="resume",
        ) from error


def is_oom(error: BaseException) -> bool:
    """Returns whether an error says that the memory is full."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or _CPU_MESSAGES.search(str(error)) is not None


def describe_shortage(error: BaseException) -> str | None:
    """Returns the limit of the machine that an error is about, and what helps; None for others."""
    text = f"{error} {error.__cause__ or ''}"
    first = "".join(str(error).strip().splitlines()[:1])[:200] or type(error).__name__
    for sign, meaning in _SHORTAGES.items():
        if sign in text:
            return f"{meaning} ({first})"
    if is_oom(error):
        return f"the memory is full, or limited to too little: use smaller images ({first})"
    return None


def _peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
    try:
        import resource
    except ImportError:
        return "unknown"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
