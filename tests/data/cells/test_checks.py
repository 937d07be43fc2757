"""The checks of cell images, problem by problem, and the account of all images."""

import hashlib
import os
import shutil
from collections import Counter

import pytest
from PIL import Image

from tests.data.cells.cell_images import make_class_folders, save_cell
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cells.checks import CellReport, check_cells, fingerprint_manifest
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.detection.report import Counts
from wbcnets.errors import DataError


def check(folder, names=None, policy="drop", **options):
    listing = list_cells(folder, r"(?P<group>p\d)")
    table = ClassTable(names or listing.class_texts)
    return check_cells("set", listing, table, policy=policy, **options)


def problems_of(folder, names=None, policy="drop", **options):
    with pytest.raises(DataError) as caught:
        check(folder, names, policy, **options)
    problems = list(caught.value.problems)
    assert str(caught.value).startswith(f"{folder}: {len(problems)} problems\n")
    return problems


def test_the_report_in_words():
    files = [f"{number}.png" for number in range(7)]
    report = CellReport(
        read=Counter(a=9, b=1),
        converted={
            **dict.fromkeys(files[:5], ("turned", "CMYK made RGB")),
            **dict.fromkeys(files[5:], ("turned",)),
        },
        dropped={"6.png": "broken", "8.png": "empty"},
        notes=["one", "two"],
    )
    assert report.counts == Counts(10, 2, 6, 2)
    assert report.summary().splitlines() == [
        "images: 10 read = 2 used as they are + 6 repaired + 2 dropped",
        "  CMYK made RGB: 5: 0.png, 1.png, 2.png, 3.png, 4.png",
        "  turned: 7: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more",
        "  dropped: 6.png: broken",
        "  dropped: 8.png: empty",
        "  note: one",
        "  note: two",
    ]


def test_a_manifest_of_the_images(tmp_path):
    save_cell(tmp_path / "train" / "b" / "p1.png", 1)
    save_cell(tmp_path / "train" / "a" / "p2.png", 2)
    save_cell(tmp_path / "val" / "a" / "3.png", 3)
    checked = check(tmp_path, ["b", "a"])
    manifest = checked.manifest
    assert (manifest.name, manifest.root, manifest.class_names) == ("set", tmp_path, ("b", "a"))
    found = [(image.file, image.label, image.split, image.group) for image in manifest.images]
    assert found == [
        ("train/a/p2.png", 1, "train", "p2"),
        ("train/b/p1.png", 0, "train", "p1"),
        ("val/a/3.png", 1, "val", ""),
    ]
    for image in manifest.images:
        assert image.sha256 == hashlib.sha256((tmp_path / image.file).read_bytes()).hexdigest()
    prints = fingerprint_manifest(manifest)
    assert [entry.digest for entry in checked.fingerprints] == [entry.digest for entry in prints]
    assert len({entry.digest for entry in prints}) == 3
    last = checked.select([2, 0])
    assert [image.file for image in last.manifest.images] == ["val/a/3.png", "train/a/p2.png"]
    assert [entry.digest for entry in last.fingerprints] == [prints[2].digest, prints[0].digest]
    assert last.report is checked.report
    assert checked.report.read == {"b": 1, "a": 2}


def test_an_image_that_is_gone_is_named(tmp_path):
    make_class_folders(tmp_path, {"a": 2})
    manifest = check(tmp_path).manifest
    manifest.path(manifest.images[1]).unlink()
    with pytest.raises(DataError, match=r"a/1\.png"):
        fingerprint_manifest(manifest)


def test_unreadable_images_are_problems_under_refuse(tmp_path):
    make_class_folders(tmp_path, {"a": 1, "b": 1})
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "least.png")
    Image.new("RGB", (8, 7)).save(tmp_path / "a" / "low.png")
    Image.new("RGB", (7, 8)).save(tmp_path / "a" / "narrow.png")
    (tmp_path / "b" / "empty.png").touch()
    too_few = "px are too few - each side needs 8 px"
    low, narrow, empty = problems_of(tmp_path, policy="refuse")
    assert (low, narrow) == (f"a/low.png: 8x7 {too_few}", f"a/narrow.png: 7x8 {too_few}")
    assert empty.startswith("b/empty.png: ")
    assert str(tmp_path) not in empty
    report = check(tmp_path).report
    assert [f"{file}: {reason}" for file, reason in report.dropped.items()] == [low, narrow, empty]
    assert report.counts == Counts(6, 3, 0, 3)


def test_nothing_is_left(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").touch()
    assert problems_of(tmp_path) == ["no image is left"]
    # The reason is known there
    (line,) = problems_of(tmp_path, policy="refuse")
    assert line.startswith("a/0.png: ")


def copy_of(path, target):
    """Writes the same pixels as another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).save(target)


def test_equal_images_of_a_class_are_dropped_or_noted(tmp_path):
    make_class_folders(tmp_path / "train", {"a": 2})
    copy_of(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / "2.bmp")
    copy_of(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / "3.bmp")
    # Leaks between splits are not told here
    copy_of(tmp_path / "train" / "a" / "0.png", tmp_path / "val" / "a" / "4.bmp")
    for policy in ("drop", "skip"):
        report = check(tmp_path, policy=policy).report
        assert report.dropped == {
            "train/a/2.bmp": "the same image as train/a/0.png",
            "train/a/3.bmp": "the same image as train/a/0.png",
        }
        assert report.notes == []
    checked = check(tmp_path, policy="refuse")
    assert checked.report.dropped == {}
    assert checked.report.notes == ["duplicates within a class: 2: train/a/2.bmp, train/a/3.bmp"]
    assert checked.manifest.counts() == (5,)


def test_an_image_in_several_classes_is_dropped_from_all_under_skip(tmp_path):
    make_class_folders(tmp_path, {"a": 2, "b": 1, "c": 1})
    original = tmp_path / "a" / "0.png"
    for copy in ("a/x.bmp", "c/y.bmp", "b/z.bmp"):
        copy_of(original, tmp_path / copy)
    ends = "are the same image in two classes - remove one"
    for policy in ("drop", "refuse", "fix"):
        assert problems_of(tmp_path, policy=policy) == [
            f"a/0.png (a) and b/z.bmp (b) {ends}",
            f"a/0.png (a) and c/y.bmp (c) {ends}",
        ]
    report = check(tmp_path, policy="skip").report
    reason = "the same image is in the classes a and b and c"
    assert report.dropped == dict.fromkeys(["a/0.png", "a/x.bmp", "b/z.bmp", "c/y.bmp"], reason)
    assert report.counts == Counts(7, 3, 0, 4)


def test_classes_left_out_and_ignored_files_are_noted(tmp_path):
    make_class_folders(tmp_path, {"a": 1, "Debris": 2, "smudge_cell": 1})
    for number in range(6):
        (tmp_path / "a" / f"{number}.txt").touch()
    checked = check(tmp_path, ["a"], left_out=["debris", "Smudge cell"])
    first, second = checked.report.notes
    assert first == "3 images of debris, Smudge cell left out, as requested"
    assert second.startswith("ignored: 6: a/0.txt")
    assert second.endswith(" and 1 more")
    assert checked.report.counts == Counts(1, 1, 0, 0)
    # A class that is not there needs no note
    shutil.rmtree(tmp_path / "Debris")
    assert len(check(tmp_path, ["a", "smudge cell"], left_out=["debris"]).report.notes) == 1


def test_all_problems_of_names_at_once(tmp_path):
    make_class_folders(tmp_path, {"mono": 1, "MONO": 1, "mon o": 1, "lympho": 1})
    os.rename(tmp_path / "mono" / "0.png", os.fsencode(tmp_path / "mono") + b"/\xff.png")
    problems = problems_of(tmp_path, ["mono", "lymph"])
    assert (
        problems[0] == '"lympho" is no class - did you mean "lymph"?; the classes are mono, lymph'
    )
    assert problems[1].startswith('"mon o" is no class - did you mean "mono"?')
    assert problems[2:] == [
        "'MONO' and 'mono' are the same class, mono - merge them",
        "'mono/\\udcff.png': the name is not valid UTF-8 - rename the file",
    ]


def test_names_that_manifests_cannot_hold(tmp_path):
    make_class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "back\\slash.png")
    assert problems_of(tmp_path) == [
        'path "a/back\\slash.png" has a backslash or a null byte - use forward slashes'
    ]


def test_problems_of_all_kinds_are_listed_together(tmp_path):
    make_class_folders(tmp_path, {"a": 2, "b": 1, "c": 1, "other": 1})
    copy_of(tmp_path / "a" / "0.png", tmp_path / "b" / "x.bmp")
    copy_of(tmp_path / "a" / "1.png", tmp_path / "c" / "y.bmp")
    (tmp_path / "b" / "empty.png").touch()
    unknown, empty, first, second = problems_of(tmp_path, ["a", "b", "c"], policy="refuse")
    assert unknown.startswith('"other" is no class')
    assert empty.startswith("b/empty.png: ")
    assert first.startswith("a/0.png (a) and b/x.bmp (b) are the same image")
    assert second.startswith("a/1.png (a) and c/y.bmp (c) are the same image")
