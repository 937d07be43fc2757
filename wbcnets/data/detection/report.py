"""Accounts for every box and image that was read: used, repaired, or dropped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wbcnets.errors import DataError


@dataclass(frozen=True)
class Counts:
    """Numbers that must add up: n_read = n_used + n_repaired + n_dropped.

    Args:
        n_read: Items found in the input.
        n_used: Items taken as they were.
        n_repaired: Items taken after a repair.
        n_dropped: Items left out.

    Raises:
        DataError: if the numbers do not add up, so that a reader lost an item.
    """

    n_read: int
    n_used: int
    n_repaired: int
    n_dropped: int

    def __post_init__(self) -> None:
        if self.n_read != self.n_used + self.n_repaired + self.n_dropped:
            raise DataError(
                f"{self.n_read} items were read, but {self} - the reader lost some; report this"
            )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def __str__(self) -> str:
        return (
            f"{self.n_read} read = {self.n_used} used as they are + {self.n_repaired} repaired "
            f"+ {self.n_dropped} dropped"
        )


@dataclass
class DetectionReport:
    """The account of one pass over boxes and images, with every exception named.

    Args:
        read: Boxes found, per class name; unknown classes are counted under their own name.
        kept: Boxes used or repaired, per class name.
        n_used: Boxes taken as they were.
        repaired: One line per repaired box: file, item, repair.
        dropped: One line per dropped box: file, item, reason.
        n_images: Images found.
        repaired_images: One line per image whose entry was repaired.
        dropped_images: One line per dropped image.
        notes: Lines that a person should know; nothing was changed for them.
        problems: Faults that stop the reader; empty in the report of a dataset.
    """

    read: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    n_used: int = 0
    repaired: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    n_images: int = 0
    repaired_images: list[str] = field(default_factory=list)
    dropped_images: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """Boxes read, used, repaired and dropped; checked to add up."""
        return Counts(self.read.total(), self.n_used, len(self.repaired), len(self.dropped))

    def lines(self) -> list[str]:
        """Returns one line per dropped, repaired and noted item."""
        repaired = self.repaired + self.repaired_images
        kinds = {"dropped image": self.dropped_images, "dropped": self.dropped}
        found = labeled_lines({**kinds, "repaired": repaired, "note": self.notes})
        return [f"  {line}" for line in found]


def labeled_lines(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns ``kind: line`` for every line of every kind."""
    return [f"{kind}: {line}" for kind, lines in found.items() for line in lines]
