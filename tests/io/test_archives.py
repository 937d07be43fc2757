import stat
import zipfile

import pytest

from wbcnets.errors import DataError
from wbcnets.io.archives import extract_zip, unpacked


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
