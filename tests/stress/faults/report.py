#!/usr/bin/env python
"""Sends the whole corpus of faults through this library and its peers, and writes the numbers.

python tests/stress/faults/report.py                       a table, and what was not answered
python tests/stress/faults/report.py --output FILE.md      a document with every fault
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "projects" / "mfds_detr")]

from tqdm import tqdm

from tests.stress.faults import peers
from tests.stress.faults.catalog import CASES
from tests.stress.faults.readers import answer_of

_ANSWERS = {
    "error": "an error that names file and item",
    "repair": "a repair or drop, counted and listed",
    "note": "a note",
    "accept": "legal input, read rightly",
}


def main() -> int:
    """Runs the corpus; 0 where every fault had its answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    parser.add_argument("--no-peers", action="store_true", help="this library alone")
    args = parser.parse_args()
    rows, slowest = [], 0.0
    for case in tqdm(CASES, unit="fault"):
        with tempfile.TemporaryDirectory() as folder:
            path = case.make(Path(folder))
            start = time.perf_counter()
            ours = answer_of(case, path)
            slowest = max(slowest, time.perf_counter() - start)
        found = {}
        for peer in () if args.no_peers else ("detectron2", "torchvision"):
            if peers.is_for(peer, case):
                with tempfile.TemporaryDirectory() as folder:
                    found[peer] = peers.run_peer(peer, case, Path(folder))
        rows.append((case, ours, found))
    text = _document(rows, slowest)
    if args.output is not None:
        args.output.write_text(text + _table(rows), encoding="utf-8")
    print(text)
    wrong = [(case, ours) for case, ours, _ in rows if ours.answer != case.answer]
    for case, ours in wrong:
        print(f"{case.id} {case.title}: {ours.answer}, not {case.answer}\n{ours.text}")
    return 1 if wrong else 0


def _document(rows: list, slowest: float) -> str:
    answered = Counter(ours.answer for _, ours, _ in rows)
    right = sum(ours.answer == case.answer for case, ours, _ in rows)
    lines = [
        "# Faults and their answers",
        "",
        "Made by `python tests/stress/faults/report.py --output tests/stress/faults/README.md`. "
        "Each fault is "
        "made by code in this folder, goes through the door that training uses too, and is a test "
        "of `tests/stress/faults/test_faults.py`.",
        "",
        f"{len(rows)} inputs, {right} with the answer that they must have; the slowest took "
        f"{slowest:.1f} s.",
        "",
        "| answer | inputs |",
        "| --- | ---: |",
        *(f"| {text} | {answered[name]} |" for name, text in _ANSWERS.items()),
        f"| traceback | {answered['traceback']} |",
        f"| silent | {answered['silent']} |",
        "",
    ]
    for peer in ("detectron2", "torchvision"):
        counts = Counter(found[peer] for _, _, found in rows if peer in found)
        if not counts:
            continue
        kinds = (peers.CLEAR, peers.UNCLEAR, peers.WARNED, peers.SILENT, peers.CRASHED, peers.HUNG)
        both = [(case, ours) for case, ours, found in rows if peer in found]
        named = sum(ours.answer in ("error", "repair", "note") for _, ours in both)
        lines += [
            f"The same {len(both)} faults that {peer} reads, all of them faulty: here {named} are "
            f"named with file and item. {_READ_BY[peer]}",
            "",
            f"| {peer} | inputs |",
            "| --- | ---: |",
            *(f"| {kind} | {counts[kind]} |" for kind in kinds),
            "",
        ]
    return "\n".join(lines)


_READ_BY = {
    "detectron2": "Read by `load_coco_json` and `DatasetMapper`, every image once.",
    "torchvision": "Read by `CocoDetection` and `ImageFolder`, every image once.",
}


def _table(rows: list) -> str:
    lines = ["| id | fault | here | detectron2 | torchvision |", "| --- | --- | --- | --- | --- |"]
    for case, ours, found in rows:
        title = case.title.replace("|", "\\|").replace("\0", "\\0")
        cells = [found.get(peer, "") for peer in ("detectron2", "torchvision")]
        lines.append(f"| {case.id} | {title} | {ours.answer} | {cells[0]} | {cells[1]} |")
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
