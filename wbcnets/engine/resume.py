"""The rules for resuming: from the newest sound checkpoint, with the settings of the run so far."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import read_checkpoint

logger = logging.getLogger(__name__)
Checkpoint = dict[str, Any]


def read_newest(
    paths: Iterable[Path], check: Callable[[Path, Checkpoint], None] | None = None
) -> tuple[Path, Checkpoint] | None:
    """Returns the first checkpoint that is sound, with its path; None if there are no files.

    Args:
        paths: Checkpoints, the newest first; those that do not exist are passed over.
        check: Raises ``CheckpointError`` if a run cannot be resumed from a file's content.

    Raises:
        CheckpointError: if there are checkpoints, and none of them is sound; names all of them.
    """
    problems: list[str] = []
    for path in filter(Path.is_file, paths):
        try:
            checkpoint = read_checkpoint(path)
            if check is not None:
                check(path, checkpoint)
            return path, checkpoint
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError("no checkpoint can be resumed:\n  " + "\n  ".join(problems))
    return None


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings under dotted keys, such as "optimizer.lr"."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], changeable: Sequence[str]
) -> Iterator[str]:
    """Yields a line, such as "optimizer.lr: 0.1 then, 0.2 now", per change that is not allowed.

    Args:
        before: Flat settings of the run so far.
        now: Flat settings to continue with.
        changeable: Keys, or whole sections, that may differ.
    """
    for key in sorted(before.keys() | now.keys()):
        then, value = before.get(key), now.get(key)
        free = any(key == name or key.startswith(f"{name}.") for name in changeable)
        if then != value and not free:
            yield f"{key}: {then!r} then, {value!r} now"
