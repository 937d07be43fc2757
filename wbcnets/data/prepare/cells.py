"""What the scripts that prepare cell images share: check, split, copy, and write the manifest."""

import argparse
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wbcnets.data.cards.classes import CellCard, ClassTable
from wbcnets.data.cells.checks import CheckedCells, check_cells
from wbcnets.data.cells.listing import CellListing
from wbcnets.data.cells.manifest import MANIFEST_NAME, CellImage, CellManifest, write_manifest
from wbcnets.data.cells.splits import (
    GIVEN,
    Leak,
    cap_classes,
    find_leaks,
    parse_protocol,
    split_cells,
)
from wbcnets.errors import DataError

REPORT_NAME = "report.txt"
LEAK_CHOICES = ("stop", "drop", "keep")
_SHOWN_LEAKS = 20


@dataclass(frozen=True)
class PrepareOptions:
    """How a set is prepared.

    Args:
        protocol: See `wbcnets.data.cells.splits.parse_protocol`; "given" keeps the source's
            splits, "" keeps them where there are any and takes the card's protocol otherwise.
        seed: Of the split and of the draw where classes are capped.
        leaks: What to do where given splits share images or patients: "stop", "drop" the images
            from the training side, or "keep" them and only say so. Near duplicates never stop.
        allow_other_counts: Whether numbers other than the card's are let through.
        allow_rare: Whether classes that are too small for the split are let through.
    """

    protocol: str = ""
    seed: int = 0
    leaks: str = "stop"
    allow_other_counts: bool = False
    allow_rare: bool = False


def add_options(parser: argparse.ArgumentParser, leaks: str = "stop") -> None:
    """Adds the options of `PrepareOptions` to a parser that `build_parser` made."""
    parser.add_argument(
        "--protocol",
        default="",
        help='a ratio such as 8:2 or 7:1:2, "5 folds", or "given" (default: the splits of the '
        "source, else the card's protocol)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--leaks",
        choices=LEAK_CHOICES,
        default=leaks,
        help="what to do where given splits share an image or a patient: stop, drop it from the "
        f"training side, or keep it and say so (default: {leaks})",
    )
    parser.add_argument(
        "--allow-rare",
        action="store_true",
        help="go on when a class has fewer images than there are splits",
    )


def read_options(args: argparse.Namespace) -> PrepareOptions:
    """The options of a parsed command line."""
    return PrepareOptions(
        args.protocol, args.seed, args.leaks, args.allow_other_counts, args.allow_rare
    )


def prepare_cells(
    listing: CellListing,
    output: Path,
    options: PrepareOptions,
    card: CellCard | None = None,
    name: str = "",
) -> CellManifest:
    """Checks and splits images, copies them, writes the manifest and a report, and prints it.

    Args:
        listing: The images as the source names them.
        output: Folder of the dataset; gets `images/`, `manifest.csv` and `report.txt`.
        options: How.
        card: What is expected; without one the classes are those of the listing.
        name: The manifest's name; by default the card's, else the output folder's.

    Raises:
        DataError: Images cannot be used, numbers differ from the card, or splits leak.
        ConfigError: The protocol is unknown.
    """
    table = ClassTable.from_card(card) if card else ClassTable(listing.class_texts)
    name = name or (card.name if card else output.resolve().name)
    left_out = card.left_out if card else ()
    checked = check_cells(name, listing, table, drop_unusable=True, left_out=left_out)
    lines = compare_with_card(checked, card, options) if card else []
    if card and card.caps:
        checked = _select(checked, cap_classes(checked.manifest, card.caps, options.seed))
        lines.append(f"drawn with seed {options.seed}: at most {dict(card.caps)}")
    checked, more = _divided(checked, options, card)
    manifest = copy_cells(checked.manifest, output)
    write_manifest(manifest, output / MANIFEST_NAME)
    groups = len({image.group for image in manifest.images if image.group})
    patients = f"{groups} patients or slides" if groups else "patients or slides: unknown"
    text = [f"{name}: {patients}", checked.report.summary(), *lines, *more, manifest.table()]
    report = "\n".join(text)
    (output / REPORT_NAME).write_text(report + "\n", encoding="utf-8")
    print(report)
    print(f"{output / MANIFEST_NAME}: {len(manifest.images)} images")
    return manifest


def compare_with_card(checked: CheckedCells, card: CellCard, options: PrepareOptions) -> list[str]:
    """Compares the numbers of images that were read with those published.

    A source with splits may be a part of the set; more images than published are always wrong.

    Returns:
        What a person should know, one line each.

    Raises:
        DataError: The numbers differ, and that is not allowed.
    """
    read = checked.report.read
    is_part = any(image.split for image in checked.manifest.images)
    problems, notes = [], []
    for name, expected in card.counts.items():
        if read[name] > expected or (read[name] < expected and not is_part):
            problems.append(f"{name}: {read[name]} images, expected {expected}")
    total = sum(card.counts.values())
    if is_part and total and read.total() < total:
        notes.append(f"note: a part of the published set, {read.total():,} of {total:,} images")
    if problems and not options.allow_other_counts:
        raise DataError(
            f"{card.name}: this is not the published set - get it from: {card.source}; or go on "
            "with --allow-other-counts",
            problems,
        )
    return [*(f"warning: {problem}" for problem in problems), *notes]


def copy_cells(manifest: CellManifest, output: Path) -> CellManifest:
    """Copies images byte by byte to `output/images/[split/]class/`.

    Returns:
        The same images with their new paths.
    """
    taken: set[str] = set()
    images = []
    folds = any(image.split.startswith("fold") for image in manifest.images)
    for image in manifest.images:
        parts = [_folder_name(manifest.class_names[image.label])]
        if image.split and not folds:
            parts.insert(0, _folder_name(image.split))
        file = _free_name("/".join(["images", *parts]), image, taken)
        target = output / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not target.samefile(manifest.path(image)):
            shutil.copyfile(manifest.path(image), target)
        images.append(replace(image, file=file))
    return CellManifest(manifest.name, output, manifest.class_names, tuple(images))


def _folder_name(text: str) -> str:
    """A class or split as the name of a folder: a label of a table may hold any character."""
    return re.sub(r"[^\w .()+-]", "_", text).strip(". ") or "_"


def _free_name(folder: str, image: CellImage, taken: set[str]) -> str:
    name = Path(image.file).name
    # Names that differ only in case are one file on some systems
    if f"{folder}/{name}".casefold() in taken:
        name = f"{Path(name).stem}-{image.sha256[:12]}{Path(name).suffix}"
    taken.add(f"{folder}/{name}".casefold())
    return f"{folder}/{name}"


def _divided(
    checked: CheckedCells, options: PrepareOptions, card: CellCard | None
) -> tuple[CheckedCells, list[str]]:
    """Splits the images, or checks the splits that they came with."""
    splits = checked.manifest.splits
    wanted = options.protocol or (GIVEN if list(splits) != [""] else "")
    wanted = wanted or (card.protocol if card else "8:2")
    if wanted == GIVEN:
        if "" in splits:
            raise DataError(
                f"{checked.manifest.name}: {splits['']} of {len(checked.manifest.images)} images "
                "have no split - choose one with --protocol, such as 8:2"
            )
        return _without_leaks(checked, options)
    parse_protocol(wanted)
    manifest = split_cells(
        checked.manifest,
        wanted,
        options.seed,
        checked.fingerprints,
        allow_rare=options.allow_rare,
    )
    line = f"split {wanted}, seed {options.seed}; near duplicates and patients are kept together"
    return replace(checked, manifest=manifest), [line]


def _without_leaks(
    checked: CheckedCells, options: PrepareOptions
) -> tuple[CheckedCells, list[str]]:
    manifest = checked.manifest
    leaks = find_leaks(manifest, checked.fingerprints)
    kinds = Counter(leak.reason for leak in leaks)
    found = ", ".join(f"{count} {reason}" for reason, count in sorted(kinds.items())) or "none"
    lines = [f"splits as given; leaks between them: {found}"]
    certain = [leak for leak in leaks if leak.reason != "near duplicate"]
    if certain and options.leaks == "stop":
        raise DataError(
            f"{manifest.name}: the splits share images or patients - correct them, choose another "
            "split with --protocol, or go on with --leaks drop or --leaks keep",
            _name_leaks(leaks, manifest),
        )
    lines += [f"  {line}" for line in _name_leaks(leaks, manifest)]
    if options.leaks != "drop" or not leaks:
        return checked, lines
    dropped = _training_side(leaks, manifest)
    for index in dropped:
        checked.report.dropped[manifest.images[index].file] = "shared with another split"
    kept = [index for index in range(len(manifest.images)) if index not in dropped]
    return _select(checked, kept), [*lines, f"dropped from the training side: {len(dropped)}"]


def _training_side(leaks: Sequence[Leak], manifest: CellManifest) -> set[int]:
    """The images to drop so that nothing is shared: those of the split that trains."""
    order = {"train": 0, "val": 1}
    dropped = set()
    for leak in leaks:
        pair = sorted(
            (leak.first, leak.second), key=lambda i: order.get(manifest.images[i].split, 2)
        )
        first = manifest.images[pair[0]]
        if leak.reason != "same group":
            dropped.add(pair[0])
            continue
        dropped |= {
            index
            for index, image in enumerate(manifest.images)
            if (image.group, image.split) == (first.group, first.split)
        }
    return dropped


def _name_leaks(leaks: Sequence[Leak], manifest: CellManifest) -> list[str]:
    lines = [leak.describe(manifest) for leak in leaks[:_SHOWN_LEAKS]]
    rest = len(leaks) - _SHOWN_LEAKS
    return lines + ([f"... and {rest} more"] if rest > 0 else [])


def _select(checked: CheckedCells, indices: Sequence[int]) -> CheckedCells:
    images = tuple(checked.manifest.images[index] for index in indices)
    fingerprints = tuple(checked.fingerprints[index] for index in indices)
    return CheckedCells(replace(checked.manifest, images=images), fingerprints, checked.report)
