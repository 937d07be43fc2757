"""The findings of a check, for people and as JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

from wbcnets.data.cells.checks import CheckedCells
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.report import Counts, labeled_lines
from wbcnets.errors import one_line

CLEAN, PROBLEMS, UNREADABLE = 0, 1, 2
# Findings as JSON begin with it
WRITTEN_BY = "wbcnets check"
_SHOWN = 50


@dataclass
class SetResult:
    """The findings in one set.

    Args:
        name: The path.
        format: "coco", "voc", "labelme", "yolo", "cells" or "manifest".
        error: Why it cannot be read at all; empty if it can.
        counts: The account of the items: boxes, or images of cells.
        image_counts: The account of the images of boxes.
        classes: Items used per class.
        problems: Faults to fix, one line each.
        repaired: Items that were repaired on reading.
        dropped: Items that were left out.
        dropped_images: Images that were left out together with their boxes.
        notes: Lines that a person should know.
        dataset: The boxes, if they can be used.
        cells: The cells, if they can be used.
    """

    name: str
    format: str
    error: str = ""
    counts: Counts | None = None
    image_counts: Counts | None = None
    classes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_images: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dataset: CocoDataset | None = None
    cells: CheckedCells | None = None

    def set_boxes(self, dataset: CocoDataset) -> None:
        """Takes over a set of boxes that can be used."""
        report = dataset.report
        self.dataset, self.classes = dataset, dataset.box_counts
        self.counts, self.image_counts = dataset.counts, dataset.image_counts
        self.repaired = report.repaired + report.repaired_images
        self.dropped, self.dropped_images = report.dropped, report.dropped_images
        self.notes = report.notes

    def set_cells(self, cells: CheckedCells) -> None:
        """Takes over a set of cells that can be used."""
        report = cells.report
        self.cells, self.counts = cells, report.counts
        self.classes = dict(zip(cells.manifest.class_names, cells.manifest.counts()))
        self.repaired = [
            f"{file}: {', '.join(done)}"
            for file, done in report.converted.items()
            if file not in report.dropped
        ]
        self.dropped = [f"{file}: {reason}" for file, reason in report.dropped.items()]
        self.notes = report.notes

    def as_dict(self) -> dict[str, Any]:
        """Returns the findings as JSON."""
        found = {k: v for k, v in vars(self).items() if k not in ("dataset", "cells")}
        for key in ("counts", "image_counts"):
            found[key] = vars(found[key]) if found[key] is not None else None
        return found

    def changes(self) -> list[str]:
        """Returns one line per item that was left out or repaired."""
        return labeled_lines(
            {
                "dropped image": self.dropped_images,
                "dropped": self.dropped,
                "repaired": self.repaired,
            }
        )

    def lines(self) -> list[str]:
        """Returns the findings as text."""
        lines = [f"{self.name} ({self.format})"]
        if self.error:
            lines.append(f"  cannot be read: {self.error}")
        if self.image_counts is not None:
            lines.append(f"  images: {self.image_counts}")
        if self.counts is not None:
            items = "boxes" if self.image_counts is not None else "images"
            lines.append(f"  {items}: {self.counts}")
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
            lines += [f"  {kind}: {one_line(entry)}" for entry in entries[:_SHOWN]]
            if len(entries) > _SHOWN:
                lines.append(f"  {kind}: ... and {len(entries) - _SHOWN} more")
        return lines


@dataclass
class CheckResult:
    """The findings in all sets.

    Args:
        sets: One result each.
        leaks: Images and patients that two sets or splits share.
        suspicions: Near duplicates in two sets or splits, and that patients are unknown.
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

    def to_json(self) -> str:
        """Returns the findings as indented JSON, in which any file name can be written."""
        found = {
            "written_by": WRITTEN_BY,
            "exit_code": self.exit_code,
            "sets": [entry.as_dict() for entry in self.sets],
            "leaks": self.leaks,
            "suspicions": self.suspicions,
        }
        return json.dumps(found, indent=1, ensure_ascii=True)

    def summary(self) -> str:
        """Returns the findings as text; the last line sums them up."""
        lines = [line for entry in self.sets for line in entry.lines()]
        lines += [f"leak: {one_line(line)}" for line in self.leaks]
        lines += [f"perhaps a leak: {one_line(line)}" for line in self.suspicions]
        problems = sum(len(entry.problems) for entry in self.sets) + len(self.leaks)
        verdicts = {CLEAN: "can be used", PROBLEMS: f"{problems} problems"}
        return "\n".join([*lines, verdicts.get(self.exit_code, "cannot be read")])
