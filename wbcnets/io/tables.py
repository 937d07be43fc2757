"""Tables: CSV files that are written whole or not at all, and plain text."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wbcnets.io.atomic_files import write_atomically


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as UTF-8 with one line each; the first one is the header.

    Args:
        path: The file; its folder must exist.
        rows: Strings and numbers. A file name that is not valid UTF-8 is written with escapes.

    Raises:
        CheckpointError: if the file cannot be written; the old one is untouched.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of equal length as text: the first column to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
