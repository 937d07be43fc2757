#!/usr/bin/env python
"""Sends every fault through this library and its peers, and counts the answers.

python tests/stress/faults/report.py                       prints the counts and the wrong answers
python tests/stress/faults/report.py --output FILE.md      writes a table of all faults, too
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
from tests.stress.faults.readers import run_case
from tests.stress.report import markdown_table, write_report

_ANSWERS = {
    "error": "an error that names file and item",
    "repair": "a repair or drop that is counted and listed",
    "note": "a note",
    "accept": "legal input, read correctly",
}


def make(args: argparse.Namespace) -> tuple[str, str, list[str]]:
    """Runs all faults; returns the counts, the table of all faults, and the wrong answers."""
    rows, slowest = [], 0.0
    for case in tqdm(CASES, unit="fault"):
        with tempfile.TemporaryDirectory() as folder:
            path = case.make(Path(folder))
            start = time.perf_counter()
            ours = run_case(case, path)
            slowest = max(slowest, time.perf_counter() - start)
        found = {}
        for peer in () if args.no_peers else ("detectron2", "torchvision"):
            if peers.is_for(peer, case):
                with tempfile.TemporaryDirectory() as folder:
                    found[peer] = peers.run_peer(peer, case, Path(folder))
        rows.append((case, ours, found))
    wrong = [
        f"{case.id} {case.title}: {ours.kind}, not {case.expected}\n{ours.text}"
        for case, ours, _ in rows
        if ours.kind != case.expected
    ]
    return _document(rows, slowest), _table(rows), wrong


def _document(rows: list, slowest: float) -> str:
    answered = Counter(ours.kind for _, ours, _ in rows)
    right = sum(ours.kind == case.expected for case, ours, _ in rows)
    lines = [
        "# Faults and their answers",
        "",
        "Written by `make faults`. Code in this folder makes each fault, sends it through the "
        "reader that training uses, and asserts kind and text of the answer: `test_faults.py`.",
        "",
        f"{len(rows)} inputs; {right} get the expected answer. The slowest takes {slowest:.1f} s.",
        "",
        "| answer | inputs |",
        "| --- | ---: |",
        *(f"| {text} | {answered[name]} |" for name, text in _ANSWERS.items()),
        *(f"| {name} | {answered[name]} |" for name in ("wrong text", "traceback", "silent")),
        "",
    ]
    for peer in ("detectron2", "torchvision"):
        counts = Counter(found[peer] for _, _, found in rows if peer in found)
        if not counts:
            continue
        kinds = (peers.CLEAR, peers.UNCLEAR, peers.WARNED, peers.SILENT, peers.CRASHED, peers.HUNG)
        both = [(case, ours) for case, ours, found in rows if peer in found]
        named = sum(ours.kind in ("error", "repair", "note") for _, ours in both)
        lines += [
            f"{peer} reads {len(both)} of these inputs, all of them faulty. wbcnets names {named} "
            f"of them with file and item. {_READ_BY[peer]}",
            "",
            f"| {peer} | inputs |",
            "| --- | ---: |",
            *(f"| {kind} | {counts[kind]} |" for kind in kinds),
            "",
        ]
    return "\n".join(lines)


_READ_BY = {
    "detectron2": "Its readers are `load_coco_json` and `DatasetMapper`.",
    "torchvision": "Its readers are `CocoDetection` and `ImageFolder`.",
}


def _table(rows: list) -> str:
    return markdown_table(
        ("id", "fault", "wbcnets", "detectron2", "torchvision"),
        (
            (case.id, case.title, ours.kind, *(found.get(peer, "") for peer in _READ_BY))
            for case, ours, found in rows
        ),
    )


if __name__ == "__main__":
    sys.exit(write_report(__doc__, make, ("--no-peers", "run this library only")))
