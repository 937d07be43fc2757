import csv

import pytest

from wbcnets.errors import CheckpointError
from wbcnets.io.tables import format_table, write_csv


def test_rows_come_back(tmp_path):
    rows = [["file", "class"], ["a,b.png", "粒细胞"], ['"quoted"', ""]]
    write_csv(tmp_path / "x.csv", iter(rows))
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == rows
    assert (tmp_path / "x.csv").read_bytes().count(b"\n") == 3


def test_file_name_that_is_not_utf8_is_escaped(tmp_path):
    write_csv(tmp_path / "x.csv", [[b"\xff.png".decode("utf-8", "surrogateescape")]])
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == "\\udcff.png\n"


def test_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.csv: could not be written"):
        write_csv(tmp_path / "missing" / "x.csv", [["a"]])


def test_the_first_column_is_left_and_the_others_right():
    rows = [["class", "train", "all"], ["neutrophil", "8", "10"]]
    assert format_table(rows).splitlines() == ["class       train  all", "neutrophil      8   10"]
