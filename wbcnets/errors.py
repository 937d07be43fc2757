"""The errors that a user of the library can meet."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

# Line breaks, control characters and marks that turn the direction of text
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MOST_PROBLEMS, _LONGEST = 50, 2000


def one_line(text: str) -> str:
    """Returns a text with its control characters as escapes: names from files may hold any."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def shorten(text: str, length: int) -> str:
    """Keeps both ends of a long text: they tell names apart, and a problem ends with its reason."""
    if len(text) <= length:
        return text
    head = length // 2 - 1
    return f"{text[:head]}…{text[head + 1 - length :]}"


def list_problems(problems: Iterable[str], count: int) -> list[str]:
    """Returns a line for each of the first problems, and one with the number of the others.

    Args:
        problems: One text each; no more are taken than are shown.
        count: Number of all problems.
    """
    lines = [
        f"  - {shorten(one_line(text), _LONGEST)}" for text in islice(problems, _MOST_PROBLEMS)
    ]
    return lines + [f"  ... and {count - _MOST_PROBLEMS} more"] * (count > _MOST_PROBLEMS)


class WbcnetsError(Exception):
    """Base of every error that the library raises on purpose.

    Args:
        message: What is wrong, where, and what to do next.
        setting: The Python argument that decides the matter, such as "class_map". The library never
            names a command's switch; a command adds the switch that sets this argument.
    """

    def __init__(self, message: str = "", *, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class DataError(WbcnetsError, ValueError):
    """A dataset, an annotation file or an image is not usable.

    Args:
        message: One sentence that names the file and the item, gives the value and says what to
            do.
        problems: All problems found in the same pass, one line each; appended to the message.
        setting: See ``WbcnetsError``.
    """

    def __init__(self, message: str, problems: Sequence[str] = (), *, setting: str = "") -> None:
        self.problems = tuple(problems)
        shown = list_problems(self.problems, len(self.problems))
        super().__init__("\n".join([message, *shown]), setting=setting)


class CheckpointError(WbcnetsError, RuntimeError):
    """A checkpoint is damaged, or does not fit the model that it is loaded into."""


class ConfigError(WbcnetsError, ValueError):
    """A configuration key or value is unknown or out of range."""


class ProcessError(WbcnetsError, RuntimeError):
    """Another process of the same run died, failed or gives no answer."""


class OutOfMemoryError(WbcnetsError, RuntimeError):
    """The memory of the GPU or of the machine is full."""


class MissingPackageError(ConfigError, ImportError):
    """A package that is not installed is needed."""


@contextmanager
def explain_missing(install: str = "pip install 'wbcnets[train]'") -> Iterator[None]:
    """Turns an import that fails into an error that says what to install.

    Args:
        install: The command that installs the packages that are imported.

    Raises:
        MissingPackageError: if a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("wbcnets", "mfds_detr"):
            raise
        raise MissingPackageError(f"{error}; run: {install}") from error
