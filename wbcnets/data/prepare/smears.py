"""Preparation of smears with boxes: the images, and one COCO file per split."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.cards.paths import dataset_root
from wbcnets.data.detection.coco import parse_coco
from wbcnets.data.prepare.bccd import read_bccd
from wbcnets.data.prepare.labelme import read_labelme
from wbcnets.data.prepare.options import Prepared, PrepareOptions, check_counts, write_report
from wbcnets.data.prepare.sources import ConvertedSplit
from wbcnets.data.prepare.txl_pbc import read_txl_pbc
from wbcnets.io.archives import unpacked
from wbcnets.io.text_table import format_table

_READERS: dict[str, Callable[[DetectionCard, Path, Path], list[ConvertedSplit]]] = {
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
    """
    output = output or dataset_root() / card.name
    with unpacked(source) as folder:
        splits = _READERS[card.name](card, folder, output / "images")
    lines = check_counts(card, _differences(card, splits), options or PrepareOptions())
    for split in splits:
        path = output / "annotations" / f"{split.name}.json"
        parse_coco(split.coco, output / "images", source=str(path)).save(path)
        lines += [f"{path}: {len(split.coco['images'])} images", split.report.summary()]
    return write_report(output, [*lines, "boxes read -> kept:", _table(card, splits)])


def _differences(card: DetectionCard, splits: Sequence[ConvertedSplit]) -> list[str]:
    lines = []
    read: Counter[str] = Counter()
    for split in splits:
        expected, found = card.splits[split.name], len(split.coco["images"])
        if found != expected:
            lines.append(f"{split.name}: {found} images, expected {expected}")
        if split.name in card.counted_splits:
            read.update(split.report.read)
    for name, expected in card.box_counts.items():
        if read[name] != expected:
            lines.append(f"{name}: {read[name]} boxes, expected {expected}")
    return lines


def _table(card: DetectionCard, splits: Sequence[ConvertedSplit]) -> str:
    rows = [["split", "images", *card.class_names, "all"]]
    for split in splits:
        read, kept = split.report.read, split.report.kept
        counts = [(read[name], kept[name]) for name in card.class_names]
        counts.append((read.total(), kept.total()))
        cells = [f"{a:,}" if a == b else f"{a:,} -> {b:,}" for a, b in counts]
        rows.append([split.name, str(len(split.coco["images"])), *cells])
    return format_table(rows)
