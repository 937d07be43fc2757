"""The documents that the runs under stress write: tables in Markdown."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table; bars and NUL in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_escape, line))} |\n" for line in lines)


def write_report(
    description: str | None,
    make: Callable[[argparse.Namespace], tuple[str, str, Sequence[str]]],
    *flags: tuple[str, str],
) -> int:
    """Runs a report's command line; returns 0 if every answer is as expected.

    Args:
        description: The help of the command.
        make: Returns a summary to print, a table for the file, and a line per wrong answer.
        flags: Names of further options without a value, with their help.
    """
    options: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=description, **options)
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    for name, text in flags:
        parser.add_argument(name, action="store_true", help=text)
    args = parser.parse_args()
    summary, table, wrong = make(args)
    if args.output is not None:
        args.output.write_text(f"{summary}\n{table}", encoding="utf-8")
    print(summary)
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


def _escape(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\0", "\\0")
