import json
import os
import runpy
import sys

import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.stress.faults.builders import (
    picture,
    write_cells,
    write_coco,
    write_labelme,
    write_voc,
    write_yolo,
)
from wbcnets.cli.main import main
from wbcnets.version import __version__


def zero_area(data):
    data["annotations"][0]["bbox"] = [9, 9, 0, 0]


def orphan(data):
    data["annotations"][0]["image_id"] = 99


def check(path, *options):
    return main(["check", str(path), *options])


def test_exit_codes_and_json(tmp_path, capsys):
    out = tmp_path / "found" / "x.json"
    path = write_coco(tmp_path, zero_area)
    assert check(path, "--json", str(out)) == 0
    found = json.loads(out.read_text())["sets"][0]
    assert found["counts"] == {"n_read": 4, "n_used": 3, "n_repaired": 0, "n_dropped": 1}
    assert "zero area" in found["dropped"][0]
    assert found["problems"] == []
    shown = capsys.readouterr().out
    assert "4 read = 3 used as they are + 0 repaired + 1 dropped" in shown
    assert shown.endswith("can be used\n")

    assert check(path, "--strict", "--json", str(out)) == 1
    assert "zero area" in json.loads(out.read_text())["sets"][0]["problems"][0]
    assert check(path, "--bad-box", "refuse") == 1
    path.write_text('{"images": [')
    assert check(path, "--json", str(out)) == 2
    assert "not valid JSON" in json.loads(out.read_text())["sets"][0]["error"]


def test_many_problems_in_one_pass(tmp_path, capsys):
    def change(data):
        orphan(data)
        data["annotations"][1]["category_id"] = 9
        data["annotations"][2]["bbox"] = [1, 2]
        data["images"][2]["file_name"] = "gone.png"

    assert check(write_coco(tmp_path, change)) == 1
    shown = capsys.readouterr().out
    for text in ("image_id 99", "category_id 9", "four numbers", "gone.png"):
        assert text in shown
    assert "4 problems; --fix-to" in shown


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_voc, "voc"), (write_labelme, "labelme"), (write_yolo, "yolo"), (write_cells, "cells")],
)
def test_formats_are_found_out(tmp_path, capsys, write, name):
    assert check(write(tmp_path)) == 0
    assert f"({name})" in capsys.readouterr().out


def test_the_tool_is_the_command(tmp_path, capsys, monkeypatch):
    path = write_coco(tmp_path, orphan)
    assert main(["check", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "image_id 99" in shown
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", str(path)])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(REPOSITORY / "tools" / "check_dataset.py"), run_name="__main__")
    assert capsys.readouterr().out == shown


def test_leaks_between_two_sets(tmp_path, capsys):
    first, second = write_coco(tmp_path / "a"), write_coco(tmp_path / "b")
    second = second.rename(second.with_name("val.json"))
    assert main(["check", str(first), str(second)]) == 1
    shown = capsys.readouterr().out
    assert shown.count("equal pixels") == 3
    assert "patients or slides: unknown" in shown
    assert main(["check", str(first), str(second), "--no-leaks"]) == 0
    pattern = "(?P<group>[ab])[.]"
    main(["check", str(first), str(second), "--group-by", pattern])
    assert 'patient or slide "a" is in train.json and val.json' in capsys.readouterr().out


def test_a_leak_behind_an_unchanged_size_and_time_is_found(tmp_path, capsys):
    """Archives with fixed times put other images where those of an earlier check were."""
    first, second = write_coco(tmp_path / "a"), write_coco(tmp_path / "b")
    for path in (first, second):
        path.write_text(path.read_text().replace(".png", ".bmp"))
    for number, name in enumerate("abc"):
        write_bitmap(tmp_path / "a" / "images" / f"{name}.bmp", number)
        write_bitmap(tmp_path / "b" / "images" / f"{name}.bmp", 10 + number)
    assert main(["check", str(first), str(second)]) == 0
    write_bitmap(tmp_path / "b" / "images" / "b.bmp", 1)
    assert main(["check", str(first), str(second)]) == 1
    assert "b.bmp [b/train.json]: equal pixels" in capsys.readouterr().out.replace(
        str(tmp_path) + "/", ""
    )


def write_bitmap(path, seed):
    picture(seed).save(path)
    os.utime(path, (1_600_000_000, 1_600_000_000))


def test_names_from_files_cannot_command_the_terminal(tmp_path, capsys):
    def change(data):
        data["images"][0]["file_name"] = "\x1b[2J\nall is well\u202e.png"

    out = tmp_path / "found.json"
    assert check(write_coco(tmp_path, change), "--json", str(out)) == 1
    shown = capsys.readouterr().out
    assert "\\x1b[2J\\nall is well\\u202e.png" in shown
    assert "\x1b" not in shown
    assert "\x1b[2J\nall" in json.loads(out.read_text())["sets"][0]["problems"][0]


def test_nothing_is_changed_and_the_copy_is_sound(tmp_path, capsys):
    def change(data):
        orphan(data)
        data["annotations"][1]["bbox"] = [60, 10, 15, 22]
        data["annotations"][3]["id"] = 3
        data["images"][1].update(width=5, height=5)

    path = write_coco(tmp_path, change)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    fixed = tmp_path / "fixed"
    assert check(path, "--fix-to", str(fixed)) == 1
    assert all(file.read_bytes() == content for file, content in before.items())
    assert check(fixed) == 0
    lines = (fixed / "repairs.txt").read_text()
    for text in ("image_id 99", "clipped", "numbered anew", "the JSON says 5x5"):
        assert text in lines
    report = json.loads((fixed / "report.json").read_text())["sets"][0]
    assert report["counts"] == {"n_read": 4, "n_used": 0, "n_repaired": 2, "n_dropped": 2}
    assert report["image_counts"]["n_dropped"] == 1
    data = json.loads((fixed / "annotations.json").read_text())
    assert [entry["bbox"] for entry in data["annotations"]] == [[60, 10, 4, 22], [20, 20, 10, 10]]
    assert {path.name for path in (fixed / "images").iterdir()} == {"a.png", "c.png"}
    capsys.readouterr()
    assert check(path, "--fix-to", str(fixed)) == 2
    assert "fixed: holds an earlier result" in capsys.readouterr().err


def test_a_repaired_copy_of_cells(tmp_path):
    def spoil(root):
        Image.open(root / "neutrophil" / "0.png").save(root / "lymphocyte" / "x.bmp")
        (root / "neutrophil" / "1.png").write_bytes(b"broken")

    root = write_cells(tmp_path, None, spoil)
    fixed = tmp_path / "fixed"
    assert check(root, "--fix-to", str(fixed)) == 1
    assert check(fixed) == 0
    lines = (fixed / "repairs.txt").read_text()
    assert "the same image is in the classes" in lines
    assert "neutrophil/1.png" in lines
    assert len(list(fixed.rglob("*.png"))) == 4


def test_what_has_no_certain_repair_is_not_written(tmp_path, capsys):
    def change(data):
        data["categories"][1]["id"] = 1

    fixed = tmp_path / "fixed"
    assert check(write_coco(tmp_path, change), "--fix-to", str(fixed)) == 1
    assert "no certain repair" in capsys.readouterr().err
    assert not fixed.exists()


def test_prepared_sets_go_by_name(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "bccd"
    write_coco(folder)
    (folder / "annotations").mkdir()
    (folder / "train.json").rename(folder / "annotations" / "test.json")
    monkeypatch.setenv("WBCNETS_DATASETS", str(tmp_path))
    assert check("bccd_test") == 0
    assert check("bccd") == 0
    assert check("nonsense") == 2
    assert "no such file or folder" in capsys.readouterr().out


def test_help_and_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"wbcnets {__version__}\n"
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    shown = capsys.readouterr().out
    assert "--fix-to FOLDER" in shown
    assert "exit code is 0 when all can be used" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--group-by", "("], "is not a regular expression"), (["--group-by", "x"], "(?P<group>...)")],
)
def test_wrong_options(tmp_path, capsys, options, message):
    first, second = write_coco(tmp_path / "a"), write_coco(tmp_path / "b")
    assert main(["check", str(first), str(second), *options]) == 2
    assert message in capsys.readouterr().err
