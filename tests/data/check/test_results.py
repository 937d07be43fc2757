"""The findings of a check as text, as JSON and as an exit code."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.stress.faults.builders import write_coco
from wbcnets.data.cells.checks import CellReport, CheckedCells
from wbcnets.data.cells.manifest import CellImage, CellManifest
from wbcnets.data.check.results import CheckResult, SetResult
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.report import Counts

COUNTS = Counts(4, 2, 1, 1)


def test_all_findings_of_a_set_in_one_text():
    found = SetResult(
        "train.json",
        "coco",
        counts=COUNTS,
        image_counts=Counts(3, 2, 0, 1),
        classes={"WBC": 2, "RBC": 1},
        problems=["a box\nof two lines"],
        repaired=["b"],
        dropped=["c", "d"],
        dropped_images=["e"],
        notes=["f"],
    )
    assert found.lines() == [
        "train.json (coco)",
        "  images: 3 read = 2 used as they are + 0 repaired + 1 dropped",
        "  boxes: 4 read = 2 used as they are + 1 repaired + 1 dropped",
        "  classes: WBC 2, RBC 1",
        "  problem: a box\\nof two lines",
        "  dropped image: e",
        "  dropped: c",
        "  dropped: d",
        "  repaired: b",
        "  note: f",
    ]
    assert found.changes() == ["dropped image: e", "dropped: c", "dropped: d", "repaired: b"]


def test_cells_are_counted_as_images():
    found = SetResult("cells", "cells", counts=COUNTS)
    assert found.lines() == [
        "cells (cells)",
        "  images: 4 read = 2 used as they are + 1 repaired + 1 dropped",
    ]


def test_an_unreadable_set_says_why():
    found = SetResult("train.json", "coco", error="not valid JSON")
    assert found.lines() == ["train.json (coco)", "  cannot be read: not valid JSON"]


@pytest.mark.parametrize(("count", "more"), [(50, []), (51, ["  note: ... and 1 more"])])
def test_fifty_lines_of_a_kind_are_shown(count, more):
    lines = SetResult("x", "coco", notes=[f"n{i}" for i in range(count)]).lines()
    assert lines == ["x (coco)", *[f"  note: n{i}" for i in range(50)], *more]


READABLE = SetResult("a", "coco")
WITH_PROBLEMS = SetResult("b", "coco", problems=["one", "two"])
UNREADABLE = SetResult("c", "coco", error="gone")


@pytest.mark.parametrize(
    ("sets", "leaks", "code", "verdict"),
    [
        ([READABLE], [], 0, "can be used"),
        ([READABLE, WITH_PROBLEMS], [], 1, "2 problems"),
        ([READABLE], ["x and y"], 1, "1 problems"),
        ([WITH_PROBLEMS, WITH_PROBLEMS], ["x and y"], 1, "5 problems"),
        ([READABLE, UNREADABLE], [], 2, "cannot be read"),
        ([WITH_PROBLEMS, UNREADABLE], ["x and y"], 2, "cannot be read"),
    ],
)
def test_exit_code_and_verdict(sets, leaks, code, verdict):
    found = CheckResult(sets, leaks, suspicions=["patients: unknown"])
    assert found.exit_code == code
    assert found.summary().splitlines()[-1] == verdict
    assert json.loads(found.to_json())["exit_code"] == code


def test_leaks_and_suspicions_follow_the_sets():
    found = CheckResult([READABLE, UNREADABLE], ["x\n and y"], ["p\tq"])
    assert found.summary().splitlines() == [
        "a (coco)",
        "c (coco)",
        "  cannot be read: gone",
        "leak: x\\n and y",
        "perhaps a leak: p\\tq",
        "cannot be read",
    ]


def test_json_holds_all_findings_but_not_the_data(tmp_path):
    path = write_coco(tmp_path)
    boxes = SetResult(str(path), "coco")
    boxes.set_boxes(load_coco(path, tmp_path / "images"))
    # The name of a file need not be UTF-8
    found = CheckResult([boxes, SetResult("\udcff.json", "coco", error="é")], ["l"], ["s"])
    text = found.to_json()
    text.encode("ascii")
    # Indented, so that people and `diff` can read it
    assert text.splitlines()[1] == ' "written_by": "wbcnets check",'
    assert json.loads(text) == {
        "written_by": "wbcnets check",
        "exit_code": 2,
        "sets": [
            {
                "name": str(path),
                "format": "coco",
                "error": "",
                "counts": {"n_read": 4, "n_used": 4, "n_repaired": 0, "n_dropped": 0},
                "image_counts": {"n_read": 3, "n_used": 3, "n_repaired": 0, "n_dropped": 0},
                "classes": {"neutrophil": 2, "lymphocyte": 2},
                "problems": [],
                "repaired": [],
                "dropped": [],
                "dropped_images": [],
                "notes": [],
            },
            {
                "name": "\udcff.json",
                "format": "coco",
                "error": "é",
                "counts": None,
                "image_counts": None,
                "classes": {},
                "problems": [],
                "repaired": [],
                "dropped": [],
                "dropped_images": [],
                "notes": [],
            },
        ],
        "leaks": ["l"],
        "suspicions": ["s"],
    }


def test_boxes_and_images_that_a_reader_changed_are_listed(tmp_path):
    def change(data):
        data["annotations"][0]["bbox"] = [-1, 5, 20, 20]
        data["annotations"][1]["bbox"] = [5, 5, 0, 0]
        data["images"][1].pop("width")
        data["images"][2]["file_name"] = "gone.png"
        del data["annotations"][2]["area"]

    dataset = load_coco(write_coco(tmp_path, change), tmp_path / "images", policy="skip")
    found = SetResult("train.json", "coco")
    found.set_boxes(dataset)
    assert found.dataset is dataset
    assert found.counts == Counts(4, 1, 1, 2)
    assert found.image_counts == Counts(3, 1, 1, 1)
    assert found.classes == {"neutrophil": 2, "lymphocyte": 0}
    box, image = found.repaired
    assert "annotations[0]" in box
    assert "images[1]" in image
    assert [line.partition(" (")[0] for line in found.dropped] == [
        "train.json: annotations[1]",
        "train.json: annotations[3]",
    ]
    assert ["gone.png" in line for line in found.dropped_images] == [True]
    assert found.notes == ["train.json: 1 annotations lacked area or iscrowd: filled in"]


def test_converted_and_dropped_cells_are_listed_once():
    images = (CellImage("n/0.png", 0), CellImage("n/1.png", 0))
    report = CellReport(
        read=Counter(neutrophil=4),
        converted={"n/0.png": ("CMYK made RGB", "turned"), "n/2.png": ("CMYK made RGB",)},
        dropped={"n/2.png": "a copy", "n/3.png": "broken"},
        notes=["ignored: 1: x.txt"],
    )
    manifest = CellManifest("cells", Path("cells"), ("neutrophil", "lymphocyte"), images)
    cells = CheckedCells(manifest, (), report)
    found = SetResult("cells", "cells")
    found.set_cells(cells)
    assert found.cells is cells
    assert found.counts == Counts(4, 1, 1, 2)
    assert found.image_counts is None
    assert found.classes == {"neutrophil": 2, "lymphocyte": 0}
    assert found.repaired == ["n/0.png: CMYK made RGB, turned"]
    assert found.dropped == ["n/2.png: a copy", "n/3.png: broken"]
    assert found.notes == ["ignored: 1: x.txt"]
