"""Classes of cells, and a table that recognizes them by any of their names."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import category

MAX_NAME = 200
# The class of crops that show no leukocyte and no platelet: red cells, debris, empty field. A model
# that has it sends them to review; a dataset need not have it.
OTHER = "other"
# Control and format characters, line and paragraph separators, parts of broken UTF-8
_UNPRINTABLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
# Letters of some scripts need them
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class CellClass:
    """One class of cells.

    Args:
        name: The name in manifests, results and class folders.
        title: The name in words.
        short: The name in tables and plots.
        lineage: The line of blood formation that it belongs to.
        aliases: Other names of its folder or label: abbreviations, numbers, other spellings.
    """

    name: str
    title: str
    short: str
    lineage: str
    aliases: tuple[str, ...] = ()


class ClassTable:
    """Recognizes classes by name; case, spaces, hyphens and underscores make no difference.

    Args:
        names: The class names in the order of their labels.
        aliases: The other names of each class, in the same order.
    """

    def __init__(self, names: Sequence[str], aliases: Sequence[Iterable[str]] = ()) -> None:
        self.names = tuple(names)
        self._labels: dict[str, int] = {}
        # The names come last, so that a name beats an alias of another class
        for texts in (aliases, [[name] for name in names]):
            for label, entries in enumerate(texts):
                self._labels.update((normalize_name(entry), label) for entry in entries)

    @classmethod
    def from_classes(cls, classes: Sequence[CellClass]) -> "ClassTable":
        """Returns the table of a card's classes by name, title, short name and alias."""
        aliases = [(entry.title, entry.short, *entry.aliases) for entry in classes]
        return cls([entry.name for entry in classes], aliases)

    def find(self, text: str) -> int | None:
        """Returns the label of a class by any of its names, or None."""
        return self._labels.get(normalize_name(text))

    def explain(self, text: str) -> str:
        """Returns the message for an unknown name: the closest known one, and all classes."""
        near = difflib.get_close_matches(normalize_name(text), list(self._labels), n=1, cutoff=0.6)
        hint = f' - did you mean "{self.names[self._labels[near[0]]]}"?' if near else ""
        return f'"{text}" is no class{hint}; the classes are {", ".join(self.names)}'


def explain_class_name(name: str) -> str | None:
    """Returns why a text cannot be the name of a class, or None.

    Line breaks and control characters would break the lines of tables, logs and messages.
    """
    odd = next((c for c in name if c not in _JOINERS and category(c) in _UNPRINTABLE), None)
    if odd is not None:
        return f"the class name {name!a:.80} holds {odd!a}, which breaks lines - rename the class"
    if len(name) > MAX_NAME:
        return f'the class name "{name[:40]}..." has {len(name)} characters, {MAX_NAME} are allowed'
    return None


def normalize_name(text: str) -> str:
    """Returns a name in lower case, with one space for spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()
