"""What a check found, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wbcnets.data.cells.checks import CheckedCells
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.detection.report import Counts

CLEAN, PROBLEMS, UNREADABLE = 0, 1, 2
_SHOWN = 50


@dataclass
class SetResult:
    """What was found in one set.

    Args:
        name: The path.
        format: "coco", "voc", "labelme", "yolo", "cells" or "manifest".
        error: Why it cannot be read at all, empty where it can.
        counts: What became of the items: boxes, or images of cells.
        image_counts: What became of the images of boxes.
        classes: Items used per class.
        problems: What has to be mended, one line each.
        repaired: What was mended on reading.
        dropped: What is left out.
        dropped_images: Images that are left out together with their boxes.
        notes: What a person should know.
        dataset: The boxes, where they can be used.
        cells: The cells, where they can be used.
    """

    name: str
    format: str
    error: str = ""
    counts: Counts | None = None
    image_counts: Counts | None = None
    classes: dict[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    repaired: Sequence[str] = ()
    dropped: Sequence[str] = ()
    dropped_images: Sequence[str] = ()
    notes: Sequence[str] = ()
    dataset: CocoDataset | None = None
    cells: CheckedCells | None = None

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON."""
        found = {k: v for k, v in vars(self).items() if k not in ("dataset", "cells")}
        for key in ("counts", "image_counts"):
            found[key] = vars(found[key]) if found[key] is not None else None
        return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}

    def lines(self) -> list[str]:
        """The findings as text."""
        lines = [f"{self.name} ({self.format})"]
        if self.error:
            lines.append(f"  cannot be read: {self.error}")
        if self.image_counts is not None:
            lines.append(f"  images: {self.image_counts}")
        if self.counts is not None:
            what = "boxes" if self.image_counts is not None else "images"
            lines.append(f"  {what}: {self.counts}")
        if self.classes:
            shown = ", ".join(f"{name} {count}" for name, count in self.classes.items())
            lines.append(f"  classes: {shown}")
        for kind, entries in (
            ("problem", self.problems),
            ("dropped image", self.dropped_images),
            ("dropped", self.dropped),
            ("repaired", self.repaired),
            ("note", self.notes),
        ):
            lines += [f"  {kind}: {entry}" for entry in entries[:_SHOWN]]
            if len(entries) > _SHOWN:
                lines.append(f"  {kind}: ... and {len(entries) - _SHOWN} more, see --json")
        return lines


@dataclass
class CheckResult:
    """What was found in all sets.

    Args:
        sets: One result each.
        leaks: What two sets or splits share and must not.
        suspicions: What looks as if they shared it, and what is not known.
    """

    sets: list[SetResult]
    leaks: list[str] = field(default_factory=list)
    suspicions: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all can be used; 1: there are problems; 2: something cannot be read."""
        if any(entry.error for entry in self.sets):
            return UNREADABLE
        return PROBLEMS if self.leaks or any(entry.problems for entry in self.sets) else CLEAN

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON."""
        return {
            "exit_code": self.exit_code,
            "sets": [entry.as_dict() for entry in self.sets],
            "leaks": self.leaks,
            "suspicions": self.suspicions,
        }

    def summary(self) -> str:
        """The findings as text, with a last line that sums them up."""
        lines = [line for entry in self.sets for line in entry.lines()]
        lines += [f"leak: {line}" for line in self.leaks]
        lines += [f"perhaps a leak: {line}" for line in self.suspicions]
        problems = sum(len(entry.problems) for entry in self.sets) + len(self.leaks)
        verdict = {
            CLEAN: "can be used",
            PROBLEMS: f"{problems} problems to mend (--fix-to FOLDER writes a copy without them)",
            UNREADABLE: "cannot be read",
        }[self.exit_code]
        return "\n".join([*lines, verdict])
