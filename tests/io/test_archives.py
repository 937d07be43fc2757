import stat
import zipfile

import pytest

from wbcnets.data.prepare.cells import prepare_cells
from wbcnets.errors import DataError
from wbcnets.io.archives import extract_zip, unpacked
from wbcnets.io.images import read_image


def zip_with(path, name, content=b"x", mode=None):
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    if mode is not None:
        member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(member, content)


@pytest.mark.parametrize(
    ("name", "content", "mode", "message"),
    [
        ("../x.txt", b"x", None, "leads out of the folder"),
        ("/x.txt", b"x", None, "leads out of the folder"),
        ("a\\..\\x.txt", b"x", None, "leads out of the folder"),
        ("x.txt", b"/etc/passwd", stat.S_IFLNK | 0o777, "symbolic link"),
        ("x.txt", bytes(50_000_000), None, "unpacks to 50,000,000 bytes"),
    ],
)
def test_hostile_zip_files_are_not_unpacked(tmp_path, name, content, mode, message):
    archive = tmp_path / "in" / "x.zip"
    archive.parent.mkdir()
    zip_with(archive, name, content, mode)
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(DataError, match=message) as caught:
        extract_zip(archive, target)
    assert str(archive) in str(caught.value)
    assert list(target.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] in (["in", "out"], ["out", "in"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/x.png", "a/x.png"), '"a/x.png" is the name of 2 members'),
        (("a/x.png", "a/./x.png"), '"a/x.png" is the name of 2 members'),
        (("a/x.png", "a//x.png"), '"a/x.png" is the name of 2 members'),
        (("./x.png", "x.png"), '"x.png" is the name of 2 members'),
        (("a", "a/x.png"), '"a/x.png": "a" is a file, too'),
        (("a/x.png", "a"), '"a/x.png": "a" is a file, too'),
    ],
)
def test_members_of_one_path_are_not_dropped_in_silence(tmp_path, names, message):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as target:
        for number, name in enumerate(names):
            target.writestr(name, str(number))
    with pytest.raises(DataError, match=message):
        extract_zip(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_differ_in_case_are_noted(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as target:
        for name in ("a/X.png", "a/x.png", "e\u0301.png", "\u00e9.png"):
            target.writestr(name, name)
    extract_zip(tmp_path / "x.zip", tmp_path / "out")
    assert '"a/X.png" and "a/x.png" are one file on Windows' in caplog.text
    assert len(caplog.records) == 2
    assert (tmp_path / "out" / "a" / "x.png").read_text() == "a/x.png"


def test_a_name_that_exists_on_the_disk_is_not_overwritten(tmp_path):
    zip_with(tmp_path / "x.zip", "a.txt", b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("old")
    with pytest.raises(DataError, match=r'"a\.txt" is the name of another member'):
        extract_zip(tmp_path / "x.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_damaged_zip_files(tmp_path):
    archive = tmp_path / "x.zip"
    zip_with(archive, "images/a.txt", bytes(range(256)) * 8)
    data = bytearray(archive.read_bytes())
    data[60:70] = bytes(10)
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"), unpacked(archive):
        pass


def test_a_folder_is_used_as_it_is_and_a_zip_file_is_removed_afterwards(tmp_path):
    with unpacked(tmp_path) as folder:
        assert folder == tmp_path
    zip_with(tmp_path / "x.zip", "images/a.txt")
    with unpacked(tmp_path / "x.zip") as folder:
        assert (folder / "images" / "a.txt").read_bytes() == b"x"
    assert not folder.exists()


def test_sources_that_are_neither(tmp_path):
    (tmp_path / "file").write_text("x")
    for name, message in (("none", "does not exist"), ("file", "neither a folder nor a zip file")):
        with pytest.raises(DataError, match=message), unpacked(tmp_path / name):
            pass


def test_an_error_names_the_zip_and_not_the_folder_that_is_gone(tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as target:
        target.writestr("neu/a.png", b"no image")
    output, source = tmp_path / "out", tmp_path / "cells.zip"
    with pytest.raises(DataError) as error:
        prepare_cells(None, source, output)
    assert str(source) in str(error.value)
    assert "wbcnets-" not in str(error.value)
    with pytest.raises(DataError) as error, unpacked(source) as folder:
        read_image(folder / "neu" / "a.png")
    assert str(error.value).startswith(f"{source}/neu/a.png: ")
    assert "BytesIO" not in str(error.value)
