"""Checks of several sets in one pass: names, options, leaks, and what one bad set costs."""

import os
import shutil
from pathlib import Path

import pytest

from tests.stress.faults.builders import (
    VOC_BOX,
    picture,
    voc_text,
    write_cells,
    write_coco,
    write_labelme,
    write_voc,
    write_yolo,
)
from wbcnets.data.check import CheckOptions, check_datasets, fix_datasets
from wbcnets.errors import ConfigError


def check(*paths, **options):
    return check_datasets(paths, CheckOptions(**options))


def check_one(path, **options):
    (found,) = check(path, **options).sets
    return found


def named(folder, name, change=None):
    """Writes a COCO set of one picture more as folder/name."""
    path = write_coco(folder, change)
    return path.rename(folder / name)


def spoil(data):
    """Clips one box, drops one, and leaves out an area."""
    data["annotations"][0]["bbox"] = [-1, 5, 20, 20]
    data["annotations"][1]["bbox"] = [5, 5, 0, 0]
    del data["annotations"][2]["area"]


@pytest.mark.parametrize("write", [write_cells, write_yolo])
def test_a_folder_that_cannot_be_listed_costs_no_other_set(tmp_path, monkeypatch, write):
    """Somebody else's folder; the superuser of tests may list it."""
    (tmp_path / "bad").mkdir()
    bad, good = write(tmp_path / "bad"), write_coco(tmp_path / "good")
    scandir = os.scandir

    def refuse(folder="."):
        if str(folder).startswith(str(tmp_path / "bad")):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = check(bad, good)
    assert "Permission denied" in found.sets[0].error
    assert str(tmp_path / "bad") in found.sets[0].error
    assert found.sets[1].error == ""
    assert found.sets[1].dataset is not None
    assert found.exit_code == 2


def test_a_given_format_is_not_detected(tmp_path):
    write_coco(tmp_path)
    found = check_one(tmp_path, format="cells")
    assert (found.format, found.classes) == ("cells", {"images": 3})


@pytest.mark.parametrize("kind", ["", "voc"])
def test_a_missing_set_costs_no_other_set(tmp_path, kind):
    (tmp_path / "voc").mkdir()
    found = check(tmp_path / "x" / "gone.json", write_voc(tmp_path / "voc"), format=kind)
    missing, other = found.sets
    assert (missing.name, missing.format) == (str(tmp_path / "x" / "gone.json"), kind or "unknown")
    assert missing.error.endswith("gone.json: there is no such file or folder - correct the path")
    assert (other.error, other.counts.n_used) == ("", 2)


def test_strict_checks_make_problems_of_all_changes_and_notes(tmp_path):
    def spoil_more(data):
        spoil(data)
        data["images"][2]["file_name"] = "gone.png"

    path = write_coco(tmp_path, spoil_more)
    found = check_one(path, policy="skip")
    assert found.problems == []
    lines = [*found.dropped_images, *found.dropped, *found.repaired, *found.notes]
    assert len(lines) == 5
    strict = check_one(path, policy="skip", strict=True)
    assert strict.problems == [f"{line} (strict)" for line in lines]


def test_a_set_that_cannot_be_read_has_one_error_and_no_problems(tmp_path):
    path = write_coco(tmp_path)
    path.write_text("{")
    found = check_one(path, strict=True)
    assert "not valid JSON" in found.error
    assert found.problems == []


def test_a_set_with_problems_can_be_read(tmp_path):
    found = check_one(write_coco(tmp_path, spoil), policy="refuse")
    assert found.error == ""
    assert len(found.problems) == 2
    assert found.dataset is None


@pytest.mark.parametrize(
    ("write", "images"),
    [
        (write_coco, "images"),
        (write_voc, "JPEGImages"),
        (write_labelme, "."),
        (write_yolo, "images"),
    ],
)
def test_the_policy_reaches_every_reader(tmp_path, write, images):
    path = write(tmp_path)
    (tmp_path / images / "a.png").write_bytes(b"broken")
    refused = check_one(path)
    assert ["a.png" in line for line in refused.problems] == [True]
    skipped = check_one(path, policy="skip")
    assert skipped.problems == []
    assert ["a.png" in line for line in skipped.dropped_images] == [True]
    assert skipped.counts.n_used > 0


def test_faulty_cells_are_problems_but_with_skip(tmp_path):
    root = write_cells(tmp_path)
    (root / "neutrophil" / "1.png").write_bytes(b"broken")
    for policy in ("refuse", "drop", "fix"):
        found = check_one(root, policy=policy)
        assert ["neutrophil/1.png" in line for line in found.problems] == [True]
    found = check_one(root, policy="skip")
    assert (found.problems, found.counts.n_dropped) == ([], 1)
    assert found.classes == {"lymphocyte": 3, "neutrophil": 2}
    assert found.cells.manifest.name == "cells"


def manifest_of_cells(folder):
    fix_datasets([write_cells(folder)], CheckOptions(), folder / "fixed")
    return folder / "fixed"


# The classes in the order of the labels, and the complaint about a set that has others
@pytest.mark.parametrize(
    ("write", "names", "complaint"),
    [
        (write_yolo, ("lymphocyte", "neutrophil"), "class 1 is unknown"),
        (write_cells, ("neutrophil", "lymphocyte"), '"lymphocyte" is no class'),
        (manifest_of_cells, ("lymphocyte", "neutrophil"), "its classes are ['lymphocyte', 'neutro"),
        (write_voc, ("RBC", "WBC"), 'class "WBC" is unknown'),
        (write_labelme, ("LYM", "NEU"), 'class "NEU" is unknown'),
        (write_coco, ("neutrophil", "lymphocyte"), "are none of the classes ['other']"),
    ],
)
def test_given_classes_are_those_of_every_format(tmp_path, write, names, complaint):
    path = write(tmp_path)
    found = check_one(path, class_names=names)
    assert (found.problems, found.error) == ([], "")
    assert tuple(found.classes) == names
    found = check_one(path, class_names=("other",))
    assert complaint in found.problems[0]
    assert (found.dataset, found.cells, found.error) == (None, None, "")


def test_unknown_categories_are_named_in_order(tmp_path):
    path = write_coco(tmp_path)
    assert check_one(path, class_names=("x", "neutrophil")).problems == [
        "categories: lymphocyte are none of the classes ['x', 'neutrophil']"
    ]
    assert check_one(path, class_names=("x",)).problems == [
        "categories: lymphocyte, neutrophil are none of the classes ['x']"
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("neu\ntrophil",), r"'neu\\ntrophil' holds '\\n', which breaks lines"),
        (("a\x1b[2J",), r"holds '\\x1b'"),
        (("x" * 201,), "has 201 characters, 200 are allowed"),
        (("neutrophil", "Neutrophil"), "neutrophil, Neutrophil are the same"),
    ],
)
def test_given_classes_are_names(tmp_path, names, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_one(write_coco(tmp_path), class_names=names)
    assert error.value.setting == "class_names"


def test_the_classes_of_a_manifest_have_an_order(tmp_path):
    found = check_one(manifest_of_cells(tmp_path), class_names=("neutrophil", "lymphocyte"))
    assert found.problems == [
        "its classes are ['lymphocyte', 'neutrophil'], not ['neutrophil', 'lymphocyte']"
    ]


def test_a_manifest_is_counted_and_compared_with_its_images(tmp_path):
    path = manifest_of_cells(tmp_path)
    found = check_one(path)
    assert (found.format, found.name) == ("manifest", str(path / "manifest.csv"))
    assert str(found.counts) == "6 read = 6 used as they are + 0 repaired + 0 dropped"
    assert found.classes == {"lymphocyte": 3, "neutrophil": 3}
    assert found.cells.report.read == found.classes
    image = found.cells.manifest.path(found.cells.manifest.images[0])
    picture(7, 40, 40).save(image)
    changed = check_one(path)
    assert image.name in "".join([*changed.problems, changed.error])
    assert check(path).exit_code > 0


@pytest.mark.parametrize(("origin", "x"), [(0, 1), (1, 0), ("auto", 0)])
def test_the_origin_of_voc(tmp_path, origin, x):
    write_voc(tmp_path, voc_text([{**VOC_BOX, "xmin": 1, "ymin": 1}]))
    found = check_one(tmp_path, voc_origin=origin)
    assert found.dataset.images[0].boxes[0, :2].tolist() == [x, x]


def test_yolo_without_images_asks_for_their_folder(tmp_path):
    write_yolo(tmp_path)
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    found = check_one(tmp_path)
    assert found.error == (
        f"{tmp_path}: holds no image (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp) - name their "
        "folder"
    )
    assert check_one(tmp_path, images=tmp_path / "elsewhere").counts.n_used == 2


def test_images_of_yolo_are_those_of_one_folder_and_may_be_links(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write_yolo(root)
    shutil.move(root / "images" / "b.png", tmp_path / "b.png")
    (root / "images" / "b.png").symlink_to(tmp_path / "b.png")
    (root / "images" / "thumbnails").mkdir()
    picture(9).save(root / "images" / "thumbnails" / "c.png")
    found = check_one(root)
    assert (found.problems, found.error) == ([], "")
    assert found.image_counts.n_read == 2


def test_a_zip_goes_by_its_own_name(tmp_path):
    write_coco(tmp_path / "smears", lambda data: data["images"][0].update(file_name="gone.png"))
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "smears")
    upper = os.path.splitext(archive)[0] + ".ZIP"
    os.rename(archive, upper)
    found = check_one(tmp_path / "all.ZIP")
    assert found.name == f"{upper}/train.json"
    assert "gone.png" in found.problems[0]


def test_a_broken_zip_is_an_error_of_its_own(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"broken")
    found = check(tmp_path / "x.zip", write_coco(tmp_path), format="coco")
    assert found.sets[0].error.startswith(f"{tmp_path}/x.zip: ")
    assert (found.sets[0].name, found.sets[0].format) == (f"{tmp_path}/x.zip", "coco")
    assert found.sets[1].dataset is not None


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Returns the folder of prepared sets, in which bccd has one split."""
    root = tmp_path / "datasets"
    (root / "bccd" / "annotations").mkdir(parents=True)
    path = write_coco(root / "bccd")
    path.rename(root / "bccd" / "annotations" / "test.json")
    monkeypatch.setenv("WBCNETS_DATASETS", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_names_of_prepared_sets(prepared, tmp_path):
    for name in ("bccd", "bccd_test"):
        found = check_one(Path(name))
        assert (found.error, found.counts.n_used) == ("", 4)
    assert check_one(Path("bccd")).name == "bccd/annotations/test.json"
    assert check_one(Path("bccd_test")).name == "bccd_test"
    assert "wbcnets prepare" in check_one(Path("bccd_trainval")).error
    missing = check_one(Path("nobody"))
    assert missing.name == "nobody"
    assert missing.error == "nobody: there is no such file or folder - correct the path"


def test_a_path_goes_before_the_name_of_a_prepared_set(prepared, tmp_path):
    shutil.move(write_cells(tmp_path), tmp_path / "bccd")
    assert check_one(Path("bccd")).format == "cells"
    # A path with a folder or a suffix is no name
    for path in ("x/bccd_test", "bccd_test.json"):
        assert "there is no such file or folder" in check_one(Path(path)).error


def test_sides_of_a_leak_go_by_short_names_that_differ(tmp_path):
    train, val = named(tmp_path / "a", "train.json"), named(tmp_path / "b", "val.json")
    assert "[train.json] and " in check(train, val).leaks[0]
    other = named(tmp_path / "c", "train.json")
    (line, *_) = check(train, other).leaks
    assert f"[{train}] and " in line
    assert f"[{other}]: equal pixels" in line


def test_cells_and_smears_are_compared_among_themselves(tmp_path):
    first = write_cells(tmp_path, {"train/neutrophil": 2, "val/neutrophil": 2})
    shutil.copy(first / "train" / "neutrophil" / "0.png", first / "val" / "neutrophil" / "9.png")
    smears = write_coco(tmp_path / "smears")
    shutil.copy(first / "train" / "neutrophil" / "1.png", tmp_path / "smears" / "images" / "x.png")
    (tmp_path / "more").mkdir()
    found = check(first, smears, write_labelme(tmp_path / "more"))
    leak = "train/neutrophil/0.png [cells train] and val/neutrophil/9.png [cells val]: equal pixels"
    assert leak in found.leaks
    assert not any("1.png" in line for line in found.leaks)
    other = first.rename(tmp_path / "others")
    shutil.copytree(other / "train", tmp_path / "cells")
    assert len(check(other, tmp_path / "cells").leaks) == 4
    assert check(first, leaks=False).leaks == []


def test_near_duplicates_are_suspicions(tmp_path):
    train, val = write_coco(tmp_path / "a"), named(tmp_path / "b", "val.json")
    for number, name in enumerate("abc"):
        picture(number).rotate(180).save(tmp_path / "b" / "images" / f"{name}.png")
    image = picture(1)
    image.putpixel((3, 3), (0, 0, 0))
    image.save(tmp_path / "b" / "images" / "b.png")
    found = check(train, val)
    assert (found.leaks, found.exit_code) == ([], 0)
    near, unknown = found.suspicions
    assert "near duplicate (" in near
    assert "of 64 bits differ)" in near
    assert unknown == (
        "patients or slides: unknown; a group pattern finds them in the names of the files"
    )


def test_patients_of_one_set_need_not_be_known(tmp_path):
    path = write_coco(tmp_path)
    assert check(path).suspicions == []
    assert check(write_cells(tmp_path)).suspicions == []


def test_a_group_pattern_finds_patients_of_smears_and_cells(tmp_path):
    train, val = write_coco(tmp_path / "a"), named(tmp_path / "b", "val.json")
    for number, name in enumerate("abc"):
        picture(10 + number).save(tmp_path / "b" / "images" / f"{name}.png")
    found = check(train, val, group_pattern="(?P<group>b)[.]")
    assert found.leaks == ['patient or slide "b" is in train.json and val.json']
    assert found.suspicions == []
    cells = write_cells(tmp_path, {"train/neutrophil": 2, "val/neutrophil": 1})
    found = check(cells, group_pattern="(?P<group>0)[.]")
    assert found.leaks == ['patient or slide "0" is in cells train and cells val']


def test_a_folder_of_data_is_refused_before_any_work(tmp_path):
    path = write_coco(tmp_path / "set")
    images = tmp_path / "pictures"
    images.mkdir()
    for folder in (tmp_path / "set" / "fixed", images / "fixed"):
        with pytest.raises(ConfigError) as caught:
            fix_datasets([path.parent], CheckOptions(images=images), folder)
        assert caught.value.setting == "fix_to"
        assert not folder.exists()
