"""Tables and lists: CSV files written whole or not at all, and text from any editor.

A text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises,
and bytes of file names that are not UTF-8 are written as escapes. ``read_cell`` undoes both.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wbcnets.errors import DataError
from wbcnets.io.atomic_files import write_text
from wbcnets.io.image_files import read_regular_file

MAX_TEXT_BYTES = 256 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Spreadsheets also take the wide forms of Chinese and Japanese keyboards
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]|''")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# The escape of a surrogate, which stands for a byte; x5c is a backslash that is none
_ESCAPED_SURROGATE = re.compile(r"\\((?:x5c)*)(ud[89a-f][0-9a-f]{2})")


def read_text(
    path: str | os.PathLike[str], title: str = "the text", max_bytes: int = MAX_TEXT_BYTES
) -> str:
    """Returns the text of a file: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Args:
        path: The file.
        title: The kind of file in messages, such as "the list".
        max_bytes: Larger files are refused.

    Raises:
        DataError: if it is no regular file, too large, or not such text.
    """
    content = read_regular_file(path, max_bytes, title)
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{os.fspath(path)}: byte {error.start} of {title} is not {encoding[:6].upper()} - "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{os.fspath(path)}:{line}: {title} holds a null byte - save it as UTF-8")
    return text


def read_lines(path: str | os.PathLike[str], title: str = "the list") -> list[str]:
    """Returns the lines of a list without blanks around them, empty lines and ``# comments``.

    Raises:
        DataError: if it cannot be read by ``read_text``.
    """
    lines = (line.strip() for line in read_text(path, title).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as UTF-8 with one line each; the first one is the header.

    Args:
        path: The file; its folder must exist.
        rows: Strings and numbers. The texts are written by ``write_cell``.

    Raises:
        CheckpointError: if the file cannot be written; the old one is untouched.
    """
    write_text(path, format_csv(rows))


def format_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Returns the text that ``write_csv`` writes."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [write_cell(value) for value in row]
        # Python before 3.13 leaves a carriage return bare, and readers end the line there
        bare = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if bare else plain).writerow(cells)
    return text.getvalue()


def write_cell(value: Any) -> Any:
    """Returns a value as it stands in a table; numbers, and texts that are numbers, stay."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    if _FORMULA.match(value):
        value = f"'{value}"
    value = _ESCAPED_SURROGATE.sub(r"\\x5c\1\2", value)
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def read_cell(text: str) -> str:
    """Returns the text that ``write_cell`` got."""

    def unescape(match: re.Match[str]) -> str:
        escapes, surrogate = match.groups()
        return f"\\{escapes[3:]}{surrogate}" if escapes else chr(int(surrogate[1:], 16))

    text = _ESCAPED_SURROGATE.sub(unescape, text)
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of equal length as text: the first column to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
