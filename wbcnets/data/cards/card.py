"""Dataset cards: the published facts about one dataset of smears or of cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wbcnets.data.cards.classes import CellClass

# If splits share images or patients: refuse, drop them from the training side, or keep and report
LeakPolicy = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """The facts that every dataset has.

    Args:
        name: The folder below the dataset root, and the name that commands take.
        title: The published name.
        layout: The files as published.
        license: The terms of use.
        source: The place to get it from.
        citation: The work to cite.
        notes: Facts to know before training on it.
        base: The dataset that it is a selection of; empty for a whole dataset.
        selection: The name of its selection of classes among the datasets of the same base.
    """

    name: str
    title: str
    layout: str
    license: str
    source: str
    citation: str
    notes: tuple[str, ...] = ()
    base: str = ""
    selection: str = ""

    @property
    def prepare(self) -> str:
        """The command that prepares it."""
        selection = f" --classes {self.selection}" if self.base else ""
        return f"wbcnets prepare {self.base or self.name} --source SOURCE{selection}"

    def contents(self) -> dict[str, str]:
        """Returns title -> text of the facts that only this kind of dataset has."""
        raise NotImplementedError

    def describe(self) -> str:
        """Returns the card as text."""
        facts = self.contents() | {
            "layout": self.layout,
            "license": self.license,
            "source": self.source,
            "cite": self.citation,
            "prepare": self.prepare,
        }
        lines = [f"{self.name}: {self.title}"]
        for key, text in facts.items():
            prefix = f"  {key}:"
            lines.append(f"{prefix}{text}" if text.startswith("\n") else f"{prefix:<12}{text}")
        return "\n".join(lines + [f"  note:     {note}" for note in self.notes])


@dataclass(frozen=True, kw_only=True)
class DetectionCard(DatasetCard):
    """The facts about a dataset of smears with boxes.

    Args:
        class_names: The classes in the order of their category ids 1, 2, ...
        splits: Split -> number of images.
        box_counts: Class name -> number of boxes in ``counted_splits``; empty if none is published.
        counted_splits: The splits that cover the whole dataset without overlap.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    box_counts: Mapping[str, int]
    counted_splits: tuple[str, ...]

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """The names of its splits, such as ``bccd_trainval``."""
        return tuple(f"{self.name}_{split}" for split in self.splits)

    def contents(self) -> dict[str, str]:
        """Returns the images per split, the classes, and the boxes per class."""
        boxes = ", ".join(f"{name} {count:,}" for name, count in self.box_counts.items())
        return {
            "images": ", ".join(f"{split} {count}" for split, count in self.splits.items()),
            "classes": ", ".join(self.class_names),
            "boxes": boxes or "no counts published",
        }


@dataclass(frozen=True, kw_only=True)
class ClassificationCard(DatasetCard):
    """The facts about a dataset of images that show one cell each.

    Args:
        classes: The classes in the order of their labels 0, 1, ...
        counts: Class name -> number of images; empty if none is published.
        protocol: The split: "given", "8:2", "7:1:2" or "5 folds", see
            ``wbcnets.data.cells.splits``.
        group_pattern: Regular expression on file names whose group "group" is the patient; empty
            if the names do not tell.
        caps: Class name -> largest number of images, drawn at random before the split.
        repeats: Class name -> how often an epoch shows each training image, every time augmented
            differently.
        left_out: Class folders of the source to leave out.
        leaks: What happens to leaks between given splits, see
            ``wbcnets.data.prepare.options.PrepareOptions``.
    """

    classes: tuple[CellClass, ...]
    counts: Mapping[str, int]
    protocol: str
    group_pattern: str = ""
    caps: Mapping[str, int] = field(default_factory=dict)
    repeats: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    leaks: LeakPolicy = "refuse"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels."""
        return tuple(entry.name for entry in self.classes)

    def contents(self) -> dict[str, str]:
        """Returns the number of images, the split, and the classes one per line."""
        total = sum(self.counts.values())
        lines = []
        for label, entry in enumerate(self.classes):
            count = f"{self.counts[entry.name]:,}" if self.counts else "?"
            lines.append(
                f"\n    {label:>2}  {entry.name} ({entry.short}), {entry.title}, "
                f"{entry.lineage}: {count}"
            )
        return {
            "images": f"{total:,}" if self.counts else "no counts published",
            "split": self.protocol,
            "patients": "in the file names" if self.group_pattern else "unknown",
            "classes": "".join(lines),
        }
