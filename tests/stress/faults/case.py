"""What a fault is: how it is made, and what has to be answered to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# An error that names file and item; a repair or drop that is counted and listed; a note; or input
# that is legal, however odd, and gives the right result
ANSWERS = ("error", "repair", "note", "accept")


@dataclass(frozen=True)
class Case:
    """One fault.

    Args:
        id: Of the catalog, such as "D01", with a suffix that tells its cases apart.
        title: What is wrong.
        make: Writes it into an empty folder, and returns what is to be read.
        answer: One of `ANSWERS`.
        text: Regular expression that the answer must match.
        reader: Which door it goes through: "check", or a name of `tests.stress.faults.readers`.
        options: Of `wbcnets.data.check.CheckOptions`.
    """

    id: str
    title: str
    make: Callable[[Path], Path]
    answer: str
    text: str
    reader: str = "check"
    options: dict[str, Any] = field(default_factory=dict)


class Catalog:
    """Cases, collected by decorators and loops."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(self, id: str, title: str, make, answer: str, text: str = "", **options: Any) -> None:
        """Takes a case; `options` are those of the check, or `reader`."""
        assert answer in ANSWERS
        reader = options.pop("reader", "check")
        number = sum(case.id.split("-")[0] == id for case in self.cases)
        name = f"{id}-{number + 1}"
        self.cases.append(Case(name, title, make, answer, text, reader, options))
