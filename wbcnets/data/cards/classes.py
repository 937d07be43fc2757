"""What a card of a cell-image dataset says, and how the names of its classes are recognized."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CellClass:
    """One class of cells.

    Args:
        name: Its name in manifests, results and class folders.
        title: The name in words.
        short: A short name for tables and plots.
        lineage: To which line of blood formation it belongs.
        aliases: Other names of its folder or label: abbreviations, numbers, other spellings.
    """

    name: str
    title: str
    short: str
    lineage: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellCard:
    """Facts about one dataset of images that show one cell each.

    Args:
        name: Folder under the dataset root, and the name that commands take.
        title: Its published name.
        classes: The classes in the order of their labels 0, 1, ...
        counts: Expected images per class name as published; empty where none are known.
        license: Under which terms it may be used.
        source: Where to get it.
        citation: The work to cite.
        protocol: How it is split: "given", "8:2", "7:1:2" or "5 folds", see
            `wbcnets.data.cells.splits`.
        prepare: The command that puts it in place.
        group_pattern: Regular expression on the file's name whose group "group" is the patient;
            empty where names say nothing about patients.
        caps: Class name -> at most so many images are taken, drawn at random before the split.
        repeats: Class name -> how often an image of the training split is shown in an epoch, each
            time augmented differently.
        left_out: Folders of the source that are not among the classes and are passed over.
        notes: What a user should know before training on it.
    """

    name: str
    title: str
    classes: tuple[CellClass, ...]
    counts: Mapping[str, int]
    license: str
    source: str
    citation: str
    protocol: str
    prepare: str
    group_pattern: str = ""
    caps: Mapping[str, int] = field(default_factory=dict)
    repeats: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels."""
        return tuple(entry.name for entry in self.classes)

    def describe(self) -> str:
        """The card as text."""
        total = sum(self.counts.values())
        patients = "from the file's name" if self.group_pattern else "unknown"
        lines = [
            f"{self.name}: {self.title}",
            f"  images:   {f'{total:,}' if self.counts else 'no counts published'}",
            f"  split:    {self.protocol}",
            f"  patients: {patients}",
            f"  license:  {self.license}",
            f"  source:   {self.source}",
            f"  cite:     {self.citation}",
            f"  prepare:  {self.prepare}",
            "  classes:",
        ]
        for label, entry in enumerate(self.classes):
            count = f"{self.counts[entry.name]:,}" if entry.name in self.counts else "?"
            lines.append(
                f"    {label:>2}  {entry.name} ({entry.short}), {entry.title}, "
                f"{entry.lineage}: {count}"
            )
        return "\n".join(lines + [f"  note:     {note}" for note in self.notes])


class ClassTable:
    """Recognizes classes by their names: case, spaces, hyphens and underscores make no difference.

    Args:
        names: The class names in the order of their labels.
        aliases: For each class its further names, in the same order.
    """

    def __init__(self, names: Sequence[str], aliases: Sequence[Iterable[str]] = ()) -> None:
        self.names = tuple(names)
        self._labels: dict[str, int] = {}
        for label, others in enumerate(aliases):
            for other in others:
                self._labels[normalize_name(other)] = label
        for label, name in enumerate(self.names):
            self._labels[normalize_name(name)] = label

    @classmethod
    def from_card(cls, card: CellCard) -> "ClassTable":
        """The table of a card: names, titles, short names and aliases."""
        aliases = [(entry.title, entry.short, *entry.aliases) for entry in card.classes]
        return cls(card.class_names, aliases)

    def find(self, text: str) -> int | None:
        """The label of a class by any of its names, None where there is none."""
        return self._labels.get(normalize_name(text))

    def explain(self, text: str) -> str:
        """What to say of a name that `find` does not know: the nearest one, and all of them."""
        near = difflib.get_close_matches(normalize_name(text), list(self._labels), n=1, cutoff=0.6)
        hint = f' - did you mean "{self.names[self._labels[near[0]]]}"?' if near else ""
        return f'"{text}" is no class{hint}; the classes are {", ".join(self.names)}'


def normalize_name(text: str) -> str:
    """A name as it is compared: lower case, and one space for spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()
