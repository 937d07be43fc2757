"""Preparation of cell images: checked, split, copied, and listed in a manifest."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cards.paths import dataset_root
from wbcnets.data.cells.checks import CheckedCells, check_cells
from wbcnets.data.cells.copying import copy_cells
from wbcnets.data.cells.cutting import list_cut_cells
from wbcnets.data.cells.listing import CellListing, list_cells
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.data.cells.splits import GIVEN, cap_classes, split_cells
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.duplicates.leaks import Leak, cell_sides, describe_leaks, find_leaks
from wbcnets.data.prepare.all_idb2 import list_all_idb2
from wbcnets.data.prepare.bloodmnist import list_bloodmnist
from wbcnets.data.prepare.cnmc import list_cnmc
from wbcnets.data.prepare.options import (
    COMMAND,
    RESULTS,
    Prepared,
    PrepareOptions,
    check_counts,
    write_report,
)
from wbcnets.data.prepare.txl_pbc_cells import list_txl_pbc_cells
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.archives import scratch_folder, unpack
from wbcnets.io.outputs import check_folder, claim_folder

_LISTERS: dict[str, Callable[[Path, ClassificationCard, Path], CellListing]] = {
    "all_idb2": list_all_idb2,
    "bloodmnist": list_bloodmnist,
    "cnmc": list_cnmc,
}
# Of two splits that share an image, the one that is earlier here loses it; others come last
_DROP_ORDER = {"train": 0, "val": 1}


def prepare_cells(
    card: ClassificationCard | None,
    source: Path,
    output: Path | None = None,
    options: PrepareOptions | None = None,
) -> Prepared:
    """Writes ``images/``, ``manifest.csv`` and ``report.txt``.

    Args:
        card: The dataset; without a card, the classes are those of the source.
        source: The published folder or zip file; without a lister of its own, a folder of class
            folders or of split and class folders, a CSV table, a COCO file whose boxes are cut out,
            or a zip file of folders or a table.
        output: The folder of the dataset; by default ``<dataset root>/<name>``.
        options: See ``PrepareOptions``.

    Raises:
        DataError: if images cannot be used, numbers differ from the card, or splits leak.
        ConfigError: if the protocol is unknown, or there is neither an output nor a card, or the
            output folder holds other files.
    """
    options = options or PrepareOptions()
    if output is None and card is None:
        raise ConfigError(
            "a dataset without a card needs an output folder, such as datasets/my_cells",
            setting="output",
        )
    if output is not None:
        check_folder(output, COMMAND, data=[source])
    with scratch_folder(source) as scratch:
        listing = _list(source, scratch, card, options)
        name = options.name or listing.name or (card.name if card else "")
        output = output or dataset_root() / name
        check_folder(output, COMMAND, data=[source], results=RESULTS)
        checked, lines = _check(name or output.resolve().name, listing, card, options)
        with claim_folder(output, COMMAND, results=RESULTS):
            manifest = copy_cells(checked.manifest, output)
            groups = len({image.group for image in manifest.images if image.group})
            patients = f"{groups} patients or slides" if groups else "patients or slides: unknown"
            head = [f"{manifest.name}: {patients}", checked.report.summary()]
            return write_report(output, [*head, *lines, manifest.table()])


def _list(
    source: Path, scratch: Path, card: ClassificationCard | None, options: PrepareOptions
) -> CellListing:
    if card and card.name in _LISTERS:
        return _LISTERS[card.name](source, card, scratch)
    if source.suffix.lower() == ".json":
        fields = load_coco(source, options.images or source.parent)
        return list_cut_cells(fields, scratch / "cells", options.contexts)
    if card and card.name == "txl_pbc_cells":
        return list_txl_pbc_cells(source, card, scratch, options.contexts)
    pattern = options.group_pattern or (card.group_pattern if card else "")
    if source.suffix.lower() == ".csv":
        return list_cells(source, pattern)
    folder = unpack(source, scratch)
    # A zip file may hold a table and its images
    tables = sorted(folder.glob("*.csv")) if folder == scratch else []
    return list_cells(tables[0] if len(tables) == 1 else folder, pattern)


def _check(
    name: str, listing: CellListing, card: ClassificationCard | None, options: PrepareOptions
) -> tuple[CheckedCells, list[str]]:
    """Returns the images with their splits, and the lines of the report about them."""
    table = ClassTable.from_classes(card.classes) if card else ClassTable(listing.class_texts)
    left_out = card.left_out if card else ()
    checked = check_cells(name, listing, table, policy="drop", left_out=left_out)
    lines = []
    if card:
        lines += _compare_counts(checked, card, options)
        options = replace(options, leaks=options.leaks or card.leaks)
    if card and card.caps:
        checked = checked.select(cap_classes(checked.manifest, card.caps, options.seed))
        lines.append(f"drawn with seed {options.seed}: at most {dict(card.caps)}")
    given = set(checked.manifest.splits) != {""}
    protocol = options.protocol or (GIVEN if given else card.protocol if card else "8:2")
    if protocol == GIVEN:
        checked, more = _keep_splits(checked, options)
        return checked, lines + more
    manifest = split_cells(
        checked.manifest,
        protocol,
        options.seed,
        checked.fingerprints,
        allow_rare=options.allow_rare,
    )
    lines.append(f"split {protocol}, seed {options.seed}; near duplicates and patients together")
    return replace(checked, manifest=manifest), lines


def _compare_counts(
    checked: CheckedCells, card: ClassificationCard, options: PrepareOptions
) -> list[str]:
    """Compares the numbers of images; a source with splits may be a part of the dataset."""
    read = checked.report.read
    is_part = any(image.split for image in checked.manifest.images)
    differences = [
        f"{name}: {read[name]} images, expected {expected}"
        for name, expected in card.counts.items()
        if read[name] > expected or (read[name] < expected and not is_part)
    ]
    lines = check_counts(card, differences, options)
    total = sum(card.counts.values())
    if is_part and read.total() < total:
        lines.append(f"note: a part of the dataset, {read.total():,} of {total:,} images")
    return lines


def _keep_splits(checked: CheckedCells, options: PrepareOptions) -> tuple[CheckedCells, list[str]]:
    """Keeps the splits of the source and handles the leaks between them."""
    manifest = checked.manifest
    if "" in manifest.splits:
        raise DataError(
            f"{manifest.name}: {manifest.splits['']} of {len(manifest.images)} images have no "
            "split - choose a protocol, such as 8:2",
            setting="protocol",
        )
    leaks = find_leaks(cell_sides(manifest, checked.fingerprints), "cells")
    kinds = Counter(leak.reason for leak in leaks)
    found = ", ".join(f"{count} {reason}" for reason, count in sorted(kinds.items())) or "none"
    named = describe_leaks(leaks)
    if any(leak.certain for leak in leaks) and options.leaks in ("", "refuse"):
        raise DataError(
            f"{manifest.name}: the splits share images or patients - correct them, choose another "
            "protocol, or drop or keep the leaks",
            named,
            setting="leaks",
        )
    lines = [f"splits as given; leaks between them: {found}", *(f"  {line}" for line in named)]
    if options.leaks != "drop" or not leaks:
        return checked, lines
    dropped = _training_side(leaks, manifest)
    for index in dropped:
        checked.report.dropped[manifest.images[index].file] = "shared with another split"
    kept = [index for index in range(len(manifest.images)) if index not in dropped]
    return checked.select(kept), [*lines, f"dropped from the training side: {len(dropped)}"]


def _training_side(leaks: Sequence[Leak], manifest: CellManifest) -> set[int]:
    """Returns the images to drop so that nothing is shared: those of the split that trains."""
    dropped = set()
    for leak in leaks:
        pair = (leak.first, leak.second)
        first = min(pair, key=lambda i: _DROP_ORDER.get(manifest.images[i].split, 2))
        image = manifest.images[first]
        if leak.reason != "same group":
            dropped.add(first)
            continue
        dropped |= {
            index
            for index, other in enumerate(manifest.images)
            if (other.group, other.split) == (image.group, image.split)
        }
    return dropped
