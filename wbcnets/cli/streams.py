"""The standard streams of a command, also where they are closed or nobody reads them."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from wbcnets.errors import CONTROLS, one_line

_NAMES = {"stdout": "standard output", "stderr": "standard error"}
# The control characters that commands write: lines, the colors of logs, the returns of progress
# bars. Names from files may hold others, which tell a terminal to do anything.
_CONTROLS = re.compile(rf"(^\r|\r?\n|\r$|\t|\x1b\[[01345]?[1-7]?m)|{CONTROLS.pattern}")
_CURSOR_UP = re.compile(r"(\x1b\[A)+")  # tqdm writes it alone


class _Output(io.FileIO):
    """The descriptor of a standard stream.

    What is written to a pipe without a reader is dropped, and so is all that follows an error.

    Args:
        descriptor: Stays open.
        name: Names the stream in errors.
        quiet: Whether there is no error at all, since it could not be told.
    """

    def __init__(self, descriptor: int, name: str, quiet: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._name, self._quiet = name, quiet

    def write(self, data: Any, /) -> int:
        """Writes as ``FileIO`` does; returns the number of bytes.

        Raises:
            OSError: if the bytes cannot be written, as on a full disk; only the first time.
        """
        try:
            return super().write(data)
        except OSError as error:
            if not (self._quiet or isinstance(error, BrokenPipeError)):
                self._quiet = True
                raise OSError(error.errno, f"{self._name}: {error.strerror}") from None
            return memoryview(data).nbytes


class _Text(io.TextIOWrapper):
    """A stream of text that escapes control characters, as in names of files."""

    def write(self, text: str, /) -> int:
        """Writes a text; returns the number of its characters."""
        super().write(escape_controls(text))
        return len(text)


def escape_controls(text: str) -> str:
    """Returns a text in which the control characters that no command writes are escaped."""
    if text.isprintable() or _CURSOR_UP.fullmatch(text):
        return text
    return _CONTROLS.sub(lambda found: found[1] or one_line(found[0]), text)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Makes output to the standard streams safe, for a ``with`` block.

    A pipe whose reader has ended, as in ``wbcnets check X | head -1``, costs the rest of the output
    and nothing else: the command goes on and returns its own exit code. A closed stream leads to
    nowhere. Control characters and what cannot be encoded, as in names of files, are escaped.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    with open(os.devnull, "r+", encoding="utf-8") as nowhere:
        sys.stdin = sys.stdin or nowhere
        for name in _NAMES:
            stream = getattr(sys, name)
            if stream is None:
                setattr(sys, name, nowhere)
            elif stream is getattr(sys, f"__{name}__"):  # not replaced by a test or a notebook
                setattr(sys, name, _tolerant(stream, name))
        try:
            yield
        finally:
            for name in _NAMES:
                with suppress(OSError, ValueError):
                    getattr(sys, name).flush()
            sys.stdin, sys.stdout, sys.stderr = before


def _tolerant(stream: TextIO, name: str) -> TextIO:
    with suppress(OSError):
        stream.flush()
    is_error = name == "stderr"
    return _Text(
        io.BufferedWriter(_Output(stream.fileno(), _NAMES[name], quiet=is_error)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=is_error or stream.isatty(),
    )
