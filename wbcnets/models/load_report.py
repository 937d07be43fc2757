"""What a model took from a checkpoint, and what it did not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """The names of tensors by what became of them.

    Attributes:
        taken: Model tensors that hold the checkpoint's values as they were.
        adapted: Model tensors that hold resampled, merged or cut values.
        kept: Model tensors without a counterpart, which keep their initialization.
        unused: Checkpoint tensors without a counterpart in the model.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model, and every one of the checkpoint, found its other."""
        return not self.kept and not self.unused

    def __str__(self) -> str:
        total = len(self.taken) + len(self.adapted) + len(self.kept)
        lines = [f"{len(self.taken)} of {total} tensors taken as they are"]
        for label, names in (
            ("adapted", self.adapted),
            ("kept at their initialization", self.kept),
            ("of the checkpoint not used", self.unused),
        ):
            if names:
                lines.append(f"{len(names)} {label}: {_summary(names)}")
        return "; ".join(lines)


def _summary(names: Iterable[str], most: int = 6) -> str:
    """Names with numbers folded into ``*``: ``blocks.*.mlp.fc1.weight (12)``."""
    folded = Counter(
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    shown = [
        f"{name} ({count})" if count > 1 else name for name, count in list(folded.items())[:most]
    ]
    more = len(folded) - len(shown)
    return ", ".join(shown) + (f" and {more} more kinds" if more else "")
