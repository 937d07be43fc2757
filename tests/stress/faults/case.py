"""The description of one fault: how to make it and the answer it must get."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# An error that names file and item; a repair or drop that is counted and listed; a note; or legal
# input, however odd, that gives the right result
ANSWERS = ("error", "repair", "note", "accept")


@dataclass(frozen=True)
class Case:
    """One fault.

    Args:
        id: Number in the catalog and number of the case, such as "D01-2".
        title: The fault in a few words.
        make: Writes the faulty input into an empty folder and returns the path to read.
        expected: One of `ANSWERS`.
        pattern: Regular expression that the answer's text must match.
        reader: Name in `tests.stress.faults.readers.READERS`.
        options: Fields of `wbcnets.data.check.CheckOptions`.
    """

    id: str
    title: str
    make: Callable[[Path], Path]
    expected: str
    pattern: str
    reader: str = "check"
    options: dict[str, Any] = field(default_factory=dict)


class Catalog:
    """Collects cases."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(
        self, id: str, title: str, make, expected: str, pattern: str = "", **options: Any
    ) -> None:
        """Adds a case; ``options`` are those of the check, or ``reader``."""
        assert expected in ANSWERS
        reader = options.pop("reader", "check")
        self.cases.append(Case(id, title, make, expected, pattern, reader, options))
