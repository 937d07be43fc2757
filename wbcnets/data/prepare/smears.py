"""Preparation of smears with boxes: the images, and one COCO file per split."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.cards.paths import dataset_root
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.prepare.bccd import read_bccd
from wbcnets.data.prepare.labelme import read_labelme
from wbcnets.data.prepare.options import (
    COMMAND,
    RESULTS,
    Prepared,
    PrepareOptions,
    check_counts,
    write_report,
)
from wbcnets.data.prepare.txl_pbc import read_txl_pbc
from wbcnets.io.archives import unpacked
from wbcnets.io.outputs import check_folder, claim_folder
from wbcnets.io.tables import format_table

_READERS: dict[str, Callable[[DetectionCard, Path, Path], dict[str, CocoDataset]]] = {
    "bccd": read_bccd,
    "txl_pbc": read_txl_pbc,
    "txl_pbc_without_bccd": read_txl_pbc,
    "txl_pbc_subtype": read_txl_pbc,
    "lisc": read_labelme,
    "wbcdd": read_labelme,
}


def prepare_smears(
    card: DetectionCard,
    source: Path,
    output: Path | None = None,
    options: PrepareOptions | None = None,
) -> Prepared:
    """Writes ``images/``, ``annotations/<split>.json`` and ``report.txt``.

    Args:
        card: The dataset.
        source: The published folder or zip file.
        output: The folder of the dataset; by default ``<dataset root>/<name>``.
        options: Only ``allow_other_counts`` matters.

    Raises:
        DataError: if the source is another dataset, numbers differ from the card, or annotations
            cannot be used; all problems are listed.
        ConfigError: if the output folder holds other files.
    """
    output = output or dataset_root() / card.name
    check_folder(output, COMMAND, data=[source], results=RESULTS)
    with unpacked(source) as folder, claim_folder(output, COMMAND, results=RESULTS):
        splits = _READERS[card.name](card, folder, output / "images")
        return _write_splits(card, splits, output, options or PrepareOptions())


def _write_splits(
    card: DetectionCard,
    splits: Mapping[str, CocoDataset],
    output: Path,
    options: PrepareOptions,
) -> Prepared:
    lines = check_counts(card, _differences(card, splits), options)
    for name, dataset in splits.items():
        path = output / "annotations" / f"{name}.json"
        dataset.source = str(path)
        dataset.save(path)
        lines.append(dataset.summary())
    return write_report(output, [*lines, "boxes read -> kept:", _table(card, splits)])


def _differences(card: DetectionCard, splits: Mapping[str, CocoDataset]) -> list[str]:
    lines = []
    read: Counter[str] = Counter()
    for name, dataset in splits.items():
        expected, found = card.splits[name], len(dataset.images)
        if found != expected:
            lines.append(f"{name}: {found} images, expected {expected}")
        if name in card.counted_splits:
            read.update(dataset.report.read)
    for name, expected in card.box_counts.items():
        if read[name] != expected:
            lines.append(f"{name}: {read[name]} boxes, expected {expected}")
    return lines


def _table(card: DetectionCard, splits: Mapping[str, CocoDataset]) -> str:
    rows = [["split", "images", *card.class_names, "all"]]
    for split, dataset in splits.items():
        read, kept = dataset.report.read, dataset.report.kept
        counts = [(read[name], kept[name]) for name in card.class_names]
        counts.append((read.total(), kept.total()))
        cells = [f"{a:,}" if a == b else f"{a:,} -> {b:,}" for a, b in counts]
        rows.append([split, str(len(dataset.images)), *cells])
    return format_table(rows)
