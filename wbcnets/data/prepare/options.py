"""The options and the result of a preparation, and the comparison with the published counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wbcnets.data.cards.card import DatasetCard, LeakPolicy
from wbcnets.data.cells.cutting import DEFAULT_CONTEXT
from wbcnets.errors import DataError
from wbcnets.io.atomic_files import write_text
from wbcnets.io.outputs import write_readme

COMMAND = "prepare"
REPORT_NAME = "report.txt"
# An earlier preparation, which is not replaced: another one of the same folder would mix the two
RESULTS = ("manifest.csv", "annotations/*.json")
_README = """A prepared dataset. report.txt lists what was read, kept and left out.
"""


@dataclass(frozen=True)
class PrepareOptions:
    """The options of a preparation; those below ``allow_other_counts`` are for cells only.

    Args:
        allow_other_counts: Whether the numbers of images and boxes may differ from the card.
        protocol: See ``wbcnets.data.cells.splits.parse_protocol``. "given" keeps the splits of the
            source. "" keeps them if there are any, and follows the card otherwise.
        seed: Seed of the split, and of the draw from capped classes.
        leaks: What happens if given splits share images or patients: "refuse" is an error, "drop"
            removes them from the training side, "keep" reports them. "" follows the card. Near
            duplicates are only reported or dropped.
        allow_rare: Whether a class may have fewer images than there are splits.
        name: The name of the manifest; by default that of the card, else of the output folder.
        group_pattern: See ``wbcnets.data.cells.listing.list_cells``; by default that of the card.
        contexts: Of cells that are cut from fields, see ``wbcnets.data.cells.cutting.cut_cell``.
        images: Folder of the fields of a COCO file; None for the folder of the file.
    """

    allow_other_counts: bool = False
    protocol: str = ""
    seed: int = 0
    leaks: LeakPolicy | Literal[""] = ""
    allow_rare: bool = False
    name: str = ""
    group_pattern: str = ""
    contexts: Sequence[float] = (DEFAULT_CONTEXT,)
    images: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Args:
        folder: The folder of the dataset.
        report: The text of its ``report.txt``.
    """

    folder: Path
    report: str


def check_counts(
    card: DatasetCard, differences: Sequence[str], options: PrepareOptions
) -> list[str]:
    """Returns a warning for each difference from the published counts.

    Raises:
        DataError: if there are differences and ``options`` does not allow them.
    """
    if differences and not options.allow_other_counts:
        raise DataError(
            f"{card.name}: this is not the published dataset - get it from: {card.source}",
            differences,
            setting="allow_other_counts",
        )
    return [f"warning: {line}" for line in differences]


def write_report(folder: Path, lines: Sequence[str]) -> Prepared:
    """Writes ``report.txt`` and ``README.txt``."""
    report = "\n".join(lines)
    write_text(folder / REPORT_NAME, f"{report}\n")
    write_readme(folder, COMMAND, _README)
    return Prepared(folder, report)
