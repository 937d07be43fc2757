import os
import socket

import pytest

from wbcnets.errors import DataError
from wbcnets.io import image_files
from wbcnets.io.image_facts import image_facts
from wbcnets.io.image_files import (
    find_files,
    find_image_files,
    list_folder,
    natural_order,
    read_regular_file,
)
from wbcnets.io.images import image_size, read_image

NAMES = ("10.png", "2.PNG", "deeper/b.tif", "deeper/even/c.webp", "x.jpeg", "notes.txt")


@pytest.fixture
def folder(tmp_path):
    for name in (*NAMES, ".hidden.png", ".cache/a.png", "__MACOSX/a.png", "deeper/.git/a.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "set"


def relative(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_images_are_listed_in_natural_order_those_of_subfolders_last(folder):
    top = ["2.PNG", "10.png", "x.jpeg"]
    assert relative(find_image_files(folder, recursive=False), folder) == top
    everything = [*top, "deeper/b.tif", "deeper/even/c.webp"]
    assert relative(find_image_files(folder), folder) == everything


def test_suffixes_choose_files(folder):
    assert relative(find_files(folder, {".txt"}), folder) == ["notes.txt"]
    assert sorted(relative(find_files(folder), folder)) == sorted(NAMES)


def test_hidden_parents_of_the_folder_itself_do_not_count(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").touch()
    assert find_image_files(tmp_path / ".data") == [tmp_path / ".data" / "a.png"]


def test_links_count_inside_the_folder_only_and_loops_end(folder, tmp_path):
    (tmp_path / "other.png").touch()
    (folder / "deeper" / "inside.png").symlink_to(folder / "10.png")
    (folder / "outside.png").symlink_to(tmp_path / "other.png")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop").symlink_to(folder)
    found = set(relative(find_image_files(folder), folder))
    assert "deeper/inside.png" in found
    assert len(found) == 6
    assert set(relative(find_image_files(folder, outside_links=True), folder)) - found == {
        "outside.png"
    }


def test_entries_are_told_apart(folder):
    (folder / "link").symlink_to(folder / "deeper")
    entries = list_folder(folder)
    assert relative(entries.folders, folder) == ["deeper"]
    assert relative(entries.files, folder) == ["2.PNG", "10.png", "notes.txt", "x.jpeg"]
    assert relative(entries.links, folder) == ["link"]
    assert relative(entries.hidden, folder) == [".cache", ".hidden.png", "__MACOSX"]


def test_natural_order_goes_by_the_value_of_numbers():
    assert sorted(["B", "a10", "a9"], key=natural_order) == ["a9", "a10", "B"]


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX files")
@pytest.mark.parametrize("make", [pipe, loop, listening, device, os.mkdir])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = tmp_path / "x.jpg"
    make(path if make is not listening else path.relative_to(tmp_path))
    assert find_image_files(tmp_path, outside_links=True) in ([], [path])
    for reader in (read_image, image_size, image_facts):
        with pytest.raises(
            DataError, match=r"x\.jpg: the image (is not a file|does not exist|cannot)"
        ):
            reader(path)


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX files")
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    path, stat = tmp_path / "x", os.stat
    os.mkfifo(path)
    (tmp_path / "y").write_bytes(b"")
    monkeypatch.setattr(image_files.os, "stat", lambda name: stat(tmp_path / "y"))
    assert read_regular_file(path, 10, "the file") == b""


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "file/below"], ids=["long", "null", "below"])
def test_odd_names_are_named_in_the_error(tmp_path, name):
    (tmp_path / "file").write_text("x")
    for reader in (read_image, image_size, image_facts):
        with pytest.raises(DataError, match=r"the image (does not exist|cannot be read)"):
            reader(tmp_path / name)


def test_files_that_grow_or_are_too_large_are_refused(tmp_path, monkeypatch):
    path, stat = tmp_path / "x", os.stat
    path.write_bytes(b"1234")
    assert read_regular_file(path, 4, "the file") == b"1234"
    with pytest.raises(DataError, match="4 bytes exceed the limit of 3"):
        read_regular_file(path, 3, "the file")
    (tmp_path / "earlier").write_bytes(b"12")
    monkeypatch.setattr(image_files.os, "stat", lambda name: stat(tmp_path / "earlier"))
    with pytest.raises(DataError, match="grows while it is read"):
        read_regular_file(path, 4, "the file")
