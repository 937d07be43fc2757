"""What became of every annotation that was read: used, repaired, or dropped."""

from collections import Counter
from collections.abc import Sequence
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
        DataError: The numbers do not add up, so an item got lost on the way.
    """

    n_read: int
    n_used: int
    n_repaired: int
    n_dropped: int

    def __post_init__(self) -> None:
        if self.n_read != self.n_used + self.n_repaired + self.n_dropped:
            raise DataError(
                f"{self.n_read} items were read, but {self} - the reader lost some, report this"
            )

    def __str__(self) -> str:
        return (
            f"{self.n_read} read = {self.n_used} used as they are + {self.n_repaired} repaired "
            f"+ {self.n_dropped} dropped"
        )


@dataclass
class ConversionReport:
    """The book-keeping of one pass over annotations, with every exception named.

    Args:
        read: Boxes found, per class name; those whose class is unknown are under their own name.
        kept: Boxes written, per class name.
        n_used: Boxes taken as they were.
        repaired: One line per repaired box: file, item, what was done.
        dropped: One line per box left out: file, item, why.
        notes: What a person should know and no box was changed for.
        problems: What stops the conversion; empty in a report that is returned.
        repair: Whether what would be a problem of one box or image is dropped instead.
        n_images: Images found in the input.
        dropped_images: One line per image left out: file, item, why.
    """

    read: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    n_used: int = 0
    repaired: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    repair: bool = False
    n_images: int = 0
    dropped_images: list[str] = field(default_factory=list)

    def refuse_box(self, item: str, reasons: Sequence[str]) -> None:
        """Books a box that cannot be used and that `read` counts: a problem, or a drop."""
        if self.repair:
            self.dropped.append(f"{item}: {'; '.join(reasons)}")
        else:
            self.problems += [f"{item}: {reason}" for reason in reasons]

    def refuse_image(self, line: str) -> None:
        """Books an image that cannot be used: a problem, or a drop."""
        (self.dropped_images if self.repair else self.problems).append(line)

    @property
    def image_counts(self) -> Counts:
        """What became of the images of a conversion."""
        dropped = len(self.dropped_images)
        return Counts(self.n_images, self.n_images - dropped, 0, dropped)

    @property
    def n_read(self) -> int:
        """Boxes found in the input."""
        return self.read.total()

    @property
    def n_repaired(self) -> int:
        """Boxes written after a repair."""
        return len(self.repaired)

    @property
    def n_dropped(self) -> int:
        """Boxes left out."""
        return len(self.dropped)

    @property
    def counts(self) -> Counts:
        """The four numbers, which are checked to add up."""
        return Counts(self.n_read, self.n_used, self.n_repaired, self.n_dropped)

    def check(self) -> None:
        """Checks that no box got lost between reading and writing.

        Raises:
            DataError: The counts do not add up.
        """
        counts = self.counts
        if self.kept.total() != counts.n_used + counts.n_repaired:
            raise DataError(f"{self.kept.total()} boxes were written, but {counts} - report this")

    def summary(self) -> str:
        """The counts, then one line per dropped box, repaired box and note."""
        lines = [f"boxes: {self.counts}"]
        lines += [f"  dropped image: {line}" for line in self.dropped_images]
        lines += [f"  dropped: {line}" for line in self.dropped]
        lines += [f"  repaired: {line}" for line in self.repaired]
        lines += [f"  note: {line}" for line in self.notes]
        return "\n".join(lines)
