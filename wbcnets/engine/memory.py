"""Running out of memory ends in a message that says what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wbcnets.errors import OutOfMemoryError

# What PyTorch's allocators for processors say; GPUs have a type of error of their own
_SAID = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Cannot allocate memory")


@contextmanager
def explain_oom(hint: str) -> Iterator[None]:
    """Turns the errors of full memory into one that tells what was tried and what to do.

    Args:
        hint: Sizes that were tried, and the settings that lower them.

    Raises:
        OutOfMemoryError: The memory is full; weights and checkpoints are as they were.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and not any(text in str(error) for text in _SAID):
            raise
        first = str(error).strip().splitlines()[:1]
        raise OutOfMemoryError(
            f"out of memory {hint}. The last checkpoint is whole, and --resume goes on from it "
            f"({''.join(first)[:200] or type(error).__name__}; most in use: {_most_in_use()})"
        ) from error


def _most_in_use() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
    try:
        import resource
    except ImportError:
        return "unknown"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
