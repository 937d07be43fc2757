import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.data.cells.cell_images import draw_cell, make_class_folders, save_cell
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cells.checks import check_cells
from wbcnets.data.cells.listing import list_cells
from wbcnets.errors import ConfigError, DataError


def check(folder, names=None, policy="drop", **options):
    listing = list_cells(folder)
    table = ClassTable(names or listing.class_texts)
    return check_cells("set", listing, table, policy=policy, **options)


def test_class_folders_in_natural_order(tmp_path):
    make_class_folders(tmp_path, {"10": 1, "2": 2, "1": 1})
    listing = list_cells(tmp_path)
    assert listing.class_texts == ["1", "2", "10"]
    assert {file.split for file in listing.files} == {""}


def test_split_folders_in_a_wrapper(tmp_path):
    make_class_folders(tmp_path / "set" / "data" / "Training", {"a": 2, "b": 1})
    make_class_folders(tmp_path / "set" / "data" / "valid", {"a": 1, "c": 1}, start=10)
    listing = list_cells(tmp_path)
    assert listing.root == tmp_path / "set" / "data"
    assert listing.class_texts == ["a", "b", "c"]
    assert sorted((file.split, file.class_text) for file in listing.files) == [
        ("train", "a"),
        ("train", "a"),
        ("train", "b"),
        ("val", "a"),
        ("val", "c"),
    ]


def test_folds_and_patients(tmp_path):
    save_cell(tmp_path / "fold_0" / "all" / "UID_3_1_1_all.bmp", 0)
    save_cell(tmp_path / "fold_1" / "all" / "UID_4_1_1_all.bmp", 1)
    files = list_cells(tmp_path, r"^UID_(?P<group>\d+)").files
    assert [(file.split, file.group) for file in files] == [("fold0", "3"), ("fold1", "4")]
    for pattern in ("(", r"UID_(\d+)"):
        with pytest.raises(ConfigError, match="group pattern"):
            list_cells(tmp_path, pattern)


def test_other_files_are_ignored_and_named(tmp_path):
    make_class_folders(tmp_path / "set", {"a": 1, "b": 1})
    make_class_folders(tmp_path / "set", {"__MACOSX": 1, ".git": 1})
    (tmp_path / "set" / "a" / "notes.txt").write_text("x")
    (tmp_path / "set" / "a" / ".DS_1.jpg").write_text("x")
    os.symlink(tmp_path / "set", tmp_path / "set" / "loop")
    listing = list_cells(tmp_path / "set")
    assert listing.class_texts == ["a", "b"]
    assert len(listing.files) == 2
    ignored = "\n".join(listing.ignored)
    for name in ("__MACOSX", ".git", "notes.txt", ".DS_1.jpg", "loop"):
        assert name in ignored


def test_ambiguous_layouts(tmp_path):
    make_class_folders(tmp_path, {"train": 0, "a": 1})
    save_cell(tmp_path / "lost.png", 5)
    save_cell(tmp_path / "a" / "deeper" / "1.png", 6)
    with pytest.raises(DataError) as caught:
        list_cells(tmp_path)
    text = "\n".join(caught.value.problems)
    for part in ("train: a split beside classes", "lost.png: lies outside", "a/deeper: a folder"):
        assert part in text
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no image"):
        list_cells(tmp_path / "nothing")
    make_class_folders(tmp_path / "twice" / "val", {"a": 1})
    make_class_folders(tmp_path / "twice" / "valid", {"a": 1})
    with pytest.raises(DataError, match="both are the split val"):
        list_cells(tmp_path / "twice")
    with pytest.raises(DataError, match="no such folder or file"):
        list_cells(tmp_path / "absent")


def test_table(tmp_path):
    save_cell(tmp_path / "images" / "1.png", 1)
    save_cell(tmp_path / "images" / "2.png", 2)
    table = tmp_path / "cells.csv"
    table.write_text(
        "\ufefffile, label,split,group\nimages/1.png,b,train,p1\nimages/2.png, a ,validation,\n",
        encoding="utf-8",
    )
    listing = list_cells(table, r"^(?P<group>\d)")
    assert listing.class_texts == ["a", "b"]
    found = [(f.path.name, f.class_text, f.split, f.group) for f in listing.files]
    assert found == [("1.png", "b", "train", "p1"), ("2.png", "a", "val", "2")]


def test_all_problems_of_a_table_at_once(tmp_path):
    save_cell(tmp_path / "1.png", 1)
    table = tmp_path / "cells.csv"
    rows = ["1.png,a", "1.png,b", "/1.png,a", "../x.png,a", "2.png,a", "1.png,", "1.png,a,b", ",a"]
    table.write_text("\n".join(["file,label", *rows]))
    with pytest.raises(DataError) as caught:
        list_cells(table)
    text = "\n".join(caught.value.problems)
    parts = (
        "line 4: path",
        "is absolute",
        "leads out",
        "line 6: 2.png: does not exist",
        "label is empty",
        "line 8: has more cells",
        "line 9: the path is empty",
        "1.png is listed 2 times, as a, b",
    )
    for part in parts:
        assert part in text
    table.write_text("name,label\n1.png,a\n")
    with pytest.raises(DataError, match="needs the columns file and label"):
        list_cells(table)
    table.write_text("file,label\n")
    with pytest.raises(DataError, match=r"cells\.csv") as caught:
        list_cells(table)
    assert caught.value.problems == ("there is no row in it",)


def test_odd_images_are_converted_and_counted(tmp_path):
    folder = tmp_path / "a"
    make_class_folders(tmp_path, {"a": 1, "b": 1})
    image = Image.fromarray(draw_cell(50))
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.quantize(16).save(folder / "palette.png")
    image.convert("L").save(folder / "gray.png")
    Image.fromarray(draw_cell(51)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    transparent = Image.fromarray(draw_cell(52))
    transparent.putalpha(100)
    transparent.save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(draw_cell(53)[:30])
    turned.save(folder / "turned.jpg", exif=exif)
    report = check(tmp_path).report
    assert str(report.counts) == "8 read = 2 used as they are + 6 repaired + 0 dropped"
    assert {file: done[0] for file, done in report.converted.items()} == {
        "a/cmyk.jpg": "CMYK made RGB",
        "a/palette.png": "palette made RGB",
        "a/gray.png": "gray made RGB",
        "a/deep.png": "16-bit gray scaled",
        "a/alpha.png": "transparency put on white",
        "a/turned.jpg": "turned by EXIF",
    }
    assert "CMYK made RGB: 1: a/cmyk.jpg" in report.summary()


def test_unusable_images_are_dropped_and_named(tmp_path):
    make_class_folders(tmp_path, {"a": 3, "b": 2})
    whole = io.BytesIO()
    Image.fromarray(draw_cell(7)).save(whole, "JPEG")
    (tmp_path / "a" / "short.jpg").write_bytes(whole.getvalue()[:300])
    (tmp_path / "a" / "empty.png").touch()
    save_cell(tmp_path / "b" / "dot.png", 1, side=1)
    (tmp_path / "b" / "same.png").write_bytes((tmp_path / "b" / "0.png").read_bytes())
    checked = check(tmp_path)
    assert str(checked.report.counts) == "9 read = 5 used as they are + 0 repaired + 4 dropped"
    assert set(checked.report.dropped) == {"a/short.jpg", "a/empty.png", "b/dot.png", "b/same.png"}
    assert checked.report.dropped["b/same.png"] == "the same image as b/0.png"
    assert "1x1 px are too few" in checked.report.dropped["b/dot.png"]
    assert checked.manifest.counts() == (3, 2)
    assert len(checked.fingerprints) == 5


def test_one_image_in_two_classes_stops(tmp_path):
    make_class_folders(tmp_path, {"a": 2, "b": 1})
    # Another file, but the same pixels
    Image.open(tmp_path / "a" / "1.png").save(tmp_path / "b" / "copy.bmp")
    for policy in ("drop", "refuse"):
        with pytest.raises(DataError) as caught:
            check(tmp_path, policy=policy)
        assert caught.value.problems == (
            "a/1.png (a) and b/copy.bmp (b) are the same image in two classes - remove one",
        )


def test_classes_that_the_table_does_not_know(tmp_path):
    make_class_folders(tmp_path, {"neutrofil": 1, "mixed": 1, "Mono": 1})
    with pytest.raises(DataError) as caught:
        check(tmp_path, ["neutrophil", "mono"])
    assert len(caught.value.problems) == 2
    assert '"neutrofil" is no class - did you mean "neutrophil"' in caught.value.problems[1]
    (tmp_path / "neutrofil").rename(tmp_path / "neutrophil")
    report = check(tmp_path, ["neutrophil", "mono"], left_out=["Mixed"]).report
    assert report.notes == ["1 images of Mixed left out, as requested"]
    make_class_folders(tmp_path, {"mono_": 0, "MONO": 1}, start=70)
    with pytest.raises(DataError, match="are the same class, mono - merge them"):
        check(tmp_path, ["neutrophil", "mono"], left_out=["Mixed"])


def test_empty_classes_keep_their_numbers(tmp_path):
    make_class_folders(tmp_path, {"a": 1, "b": 0, "c": 1})
    checked = check(tmp_path)
    assert checked.manifest.class_names == ("a", "b", "c")
    assert checked.manifest.counts() == (1, 0, 1)
    assert checked.report.notes == ["classes without images, which keep their labels: b"]
    assert [image.label for image in checked.manifest.images] == [0, 2]
