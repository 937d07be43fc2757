import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcnets.errors import CheckpointError, DataError
from wbcnets.io.tables import format_table, read_cell, read_text, write_cell, write_csv


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


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "'=", "''=", "\uff1d"])
def test_a_text_is_no_formula_in_a_spreadsheet(first, tmp_path):
    name = f"{first}HYPERLINK(1).png"
    write_csv(tmp_path / "t.csv", [["file"], [name]])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        ((cell,),) = list(csv.reader(stream))[1:]
    assert cell.startswith("'")
    assert read_cell(cell) == name


@pytest.mark.parametrize("value", ["-0.25", "+1e-5", "-3", ".5", -0.25, 3, 3.5, None])
def test_numbers_stay_numbers(value):
    assert write_cell(value) == value


@given(
    st.text(st.sampled_from("'=+-@\t\r\n\\xu5cdf80a\udcff\ud800\u00fc"), max_size=12)
    | st.text(st.characters(exclude_characters="\0"))
)
def test_a_text_is_read_as_it_was_written(text):
    assert read_cell(write_cell(text)) == text
    write_cell(text).encode("utf-8")


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path):
    name = os.fsdecode(b"bad\xff\xfe.png")
    write_csv(tmp_path / "t.csv", [["file"], [name], [r"bad\udcff.png"]])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        rows = [read_cell(cell) for (cell,) in csv.reader(stream)]
    assert rows == ["file", name, r"bad\udcff.png"]
    assert os.fsencode(rows[1]) == b"bad\xff\xfe.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\0", "byte 2 of the table is not UTF-16"),
        (b"a\n\0", r"x\.csv:2: the table holds a null byte"),
        (b"caf\xe9", "byte 3 of the table is not UTF-8"),
        (b"x" * 11, "11 bytes exceed the limit of 10 for the table"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "x.csv", "the table", 10)
