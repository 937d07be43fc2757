import pytest

from wbcnets.io.image_files import find_files, find_image_files, list_folder, natural_order

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
