"""Repaired copies of datasets, and what they say about themselves."""

import json
import shutil

import pytest

from tests.stress.faults.builders import write_cells, write_coco
from wbcnets.data.check import CheckOptions, check_datasets, fix_datasets
from wbcnets.errors import ConfigError, DataError


def spoil(data):
    """Moves one box half out of its image, and hangs another one on no image."""
    data["annotations"][1]["bbox"] = [60, 10, 15, 22]
    data["annotations"][3]["image_id"] = 99


def spoil_cells(root):
    (root / "neutrophil" / "1.png").write_bytes(b"broken")


def test_sets_are_written_side_by_side_and_listed(tmp_path):
    paths = [write_coco(tmp_path / "smears", spoil), write_cells(tmp_path, None, spoil_cells)]
    fixed = tmp_path / "fixed"
    written = fix_datasets(paths, CheckOptions(), fixed)
    assert [str(path.relative_to(fixed)) for path in written] == [
        "train/annotations.json",
        "cells/manifest.csv",
    ]
    readme = (fixed / "README.txt").read_text()
    for path in written:
        assert f"\n{path.relative_to(fixed)}\n" in readme
    # 4 boxes and 6 cells
    assert "10 read = 7 used as they are + 1 repaired + 2 dropped" in readme


def test_every_change_is_listed_once(tmp_path):
    paths = [write_coco(tmp_path / "smears", spoil), write_cells(tmp_path, None, spoil_cells)]
    fixed = tmp_path / "fixed"
    fix_datasets(paths, CheckOptions(), fixed)
    lines = (fixed / "repairs.txt").read_text().splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == ["dropped", "dropped", "repaired"]
    report = json.loads((fixed / "report.json").read_text())
    assert set(report) == {"written_by", "exit_code", "sets", "leaks", "suspicions"}
    assert report["exit_code"] == 0
    listed = [
        f"{kind}: {line}"
        for entry in report["sets"]
        for kind in ("dropped", "repaired")
        for line in entry[kind]
    ]
    assert sorted(listed) == sorted(lines)


def test_images_keep_their_folders(tmp_path):
    def nest(folder):
        (folder / "images" / "slide 1").mkdir()
        (folder / "images" / "a.png").rename(folder / "images" / "slide 1" / "a.png")

    def rename(data):
        data["images"][0]["file_name"] = "slide 1/a.png"

    fixed = tmp_path / "new" / "fixed"
    (path,) = fix_datasets([write_coco(tmp_path, rename, nest)], CheckOptions(), fixed)
    assert path == fixed / "annotations.json"
    assert (fixed / "images" / "slide 1" / "a.png").is_file()
    assert (fixed / "images" / "b.png").is_file()


def test_a_zip_is_repaired_like_its_folder(tmp_path):
    folder = tmp_path / "smears"
    write_coco(folder, spoil)
    archive = shutil.make_archive(str(tmp_path / "smears"), "zip", folder)
    (path,) = fix_datasets([tmp_path / archive], CheckOptions(), tmp_path / "fixed")
    assert len(json.loads(path.read_text())["annotations"]) == 3


def test_strict_checks_do_not_stop_a_repair(tmp_path):
    path = write_coco(tmp_path, spoil)
    options = CheckOptions(strict=True)
    assert check_datasets([path], options).exit_code == 1
    (fixed,) = fix_datasets([path], options, tmp_path / "fixed")
    assert check_datasets([fixed], options).exit_code == 0


def test_two_sets_of_one_name_are_refused(tmp_path):
    paths = [write_coco(tmp_path / name) for name in ("first", "second")]
    with pytest.raises(DataError, match=r"the same name \(train, train\)"):
        fix_datasets(paths, CheckOptions(leaks=False), tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_all_that_has_no_repair_is_listed(tmp_path):
    def duplicate(data):
        data["categories"][1]["id"] = 1

    paths = [write_coco(tmp_path, duplicate), tmp_path / "missing.json"]
    with pytest.raises(DataError, match=r"nothing was written to .*fixed: 2 problems") as caught:
        fix_datasets(paths, CheckOptions(), tmp_path / "fixed")
    first, second = caught.value.problems
    assert "categories" in first
    assert "missing.json" in second


@pytest.mark.parametrize("kind", ["the set", "its images", "an earlier copy"])
def test_no_folder_of_data_is_written_to(tmp_path, kind):
    path = write_coco(tmp_path / "set")
    folders = {"the set": path.parent, "its images": tmp_path / "x", "an earlier copy": tmp_path}
    (tmp_path / "x").mkdir()
    options = CheckOptions(images=tmp_path / "x" if kind == "its images" else None)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        fix_datasets([path], options, folders[kind])
    assert caught.value.setting == "fix_to"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("first", "second", "leaks"),
    [
        ("train", "trainval", 0),
        ("trainval", "val", 0),
        ("Trainval", "Train", 0),
        ("train", "val", 3),
        ("trainval", "test", 3),
        ("train", "mytrainval", 3),
    ],
)
def test_the_union_of_two_parts_leaks_into_neither(tmp_path, first, second, leaks):
    path = write_coco(tmp_path)
    paths = [path.rename(tmp_path / f"{first}.json"), tmp_path / f"{second}.json"]
    shutil.copy(*paths)
    assert len(check_datasets(paths, CheckOptions()).leaks) == leaks
