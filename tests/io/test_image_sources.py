import contextlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from wbcnets.errors import DataError
from wbcnets.io.image_sources import find_image_sources
from wbcnets.io.images import read_image


@pytest.fixture
def cells(tmp_path):
    folder = tmp_path / "cells"
    (folder / "deeper").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.png", "deeper/c.png")):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / name)
    (folder / "notes.md").write_text("no image")
    return folder


def test_folders_are_searched_through_in_order(cells):
    names = [source.name for source in find_image_sources([str(cells)])]
    assert names == ["a.png", "b.png", "deeper/c.png"]


def test_zip_gives_the_same_pixels_as_files(cells, tmp_path):
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for name in ("a.png", "deeper/c.png", "notes.md"):
            stream.write(cells / name, name)
    sources = find_image_sources([str(archive)])
    assert [source.name for source in sources] == [
        "cells.zip/a.png",
        "cells.zip/deeper/c.png",
    ]
    assert np.array_equal(sources[1].read(), read_image(cells / "deeper" / "c.png"))


def test_unsafe_names_in_a_zip_are_only_read_in_memory(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("../../outside.png", (tmp_path / "x.png").read_bytes())
    before = sorted(tmp_path.parent.rglob("*"))
    (source,) = find_image_sources([str(archive)])
    assert source.name == "odd.zip/outside.png"
    assert source.read().shape == (2, 2, 3)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_lists_and_patterns_name_each_image_once(cells, tmp_path):
    (cells / "list.txt").write_text("# two\na.png\n\ndeeper/c.png\n")
    names = [source.name for source in find_image_sources([cells / "list.txt", cells / "*.png"])]
    assert names == ["a.png", "deeper/c.png", "b.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark"])
def test_lists_from_any_editor(cells, encoding):
    text = "  # no image \r\na.png \t\r\n\r\n deeper/c.png\r\n"
    mark = "\ufeff" if "with a mark" in encoding else ""
    (cells / "list.txt").write_bytes((mark + text).encode(encoding.split()[0]))
    names = [source.name for source in find_image_sources([cells / "list.txt"])]
    assert names == ["a.png", "deeper/c.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a.png\n\xff.png", "byte 6 of the list"), ("a.png".encode("utf-16-le"), "txt:1: .* null")],
)
def test_lists_in_no_known_encoding_are_refused(cells, content, message):
    (cells / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_image_sources([cells / "list.txt"])


def test_one_file_in_several_spellings_is_one_image(cells, tmp_path, monkeypatch):
    """Names of output files come from these; none may lead out of the output folder."""
    lines = ("a.png", "./a.png", "deeper/../a.png", "deeper/c.png", "../cells/b.png", "../x.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (cells / "list.txt").write_text("\n".join(lines))
    names = [source.name for source in find_image_sources([cells / "list.txt"])]
    assert names == ["cells/a.png", "cells/deeper/c.png", "cells/b.png", "x.png"]
    monkeypatch.chdir(cells / "deeper")
    names = [source.name for source in find_image_sources(["..", "../../x.png", "../deeper"])]
    assert names == ["cells/a.png", "cells/b.png", "cells/deeper/c.png", "x.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "../a.png"), ("a.png", "./a.png")])
def test_images_of_one_name_in_a_zip_are_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as stream:
        for name in names:
            stream.writestr(name, b"x")
    with pytest.raises(DataError, match=r'"a\.png" is the name of 2 members'):
        find_image_sources([tmp_path / "x.zip"])


def test_an_input_that_is_no_name_costs_no_traceback(cells):
    with pytest.raises(DataError, match=r"too long|no such file"):
        find_image_sources([cells, "x" * 5000])


def test_damaged_members_and_missing_files_are_errors_that_name_them(cells, tmp_path):
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("broken.png", b"no image")
    with pytest.raises(DataError, match=r"cells\.zip:broken\.png"):
        find_image_sources([str(archive)])[0].read()
    (cells / "list.txt").write_text("nowhere.png\n")
    with pytest.raises(DataError, match=r"nowhere\.png"):
        find_image_sources([str(cells / "list.txt")])[0].read()


@pytest.mark.parametrize("name", ["nowhere", "*.gif"])
def test_inputs_that_are_not_there_are_errors(name, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_image_sources([str(tmp_path / name)])


def test_all_inputs_without_an_image_are_named(cells, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_image_sources([tmp_path / "x.zip", cells, tmp_path / "empty", tmp_path / "*.tif"])
    bad_zip, empty, pattern = caught.value.problems
    assert "x.zip: cannot be read as a zip" in bad_zip
    assert "empty: holds no image" in empty
    assert "*.tif: no such file or folder" in pattern
    with pytest.raises(DataError, match="inputs without an image"):
        find_image_sources([])


def test_names_are_relative_to_the_common_folder(cells, monkeypatch):
    monkeypatch.chdir(cells)
    assert [source.name for source in find_image_sources(["deeper/c.png"])] == ["c.png"]
    names = [source.name for source in find_image_sources(["deeper", "a.png"])]
    assert names == ["deeper/c.png", "a.png"]


def test_folder_that_is_written_to_is_left_out(cells):
    names = [source.name for source in find_image_sources([cells], leave_out=cells / "deeper")]
    assert names == ["a.png", "b.png"]


def test_patterns_pass_over_other_files_but_a_named_file_counts(cells):
    (cells / "x[1].png").write_bytes((cells / "a.png").read_bytes())
    names = [source.name for source in find_image_sources([cells / "*", cells / "x[1].png"])]
    assert names == ["a.png", "b.png", "x[1].png"]
    assert [source.name for source in find_image_sources([cells / "notes.md"])] == ["notes.md"]


def test_links_to_images_elsewhere_count(cells, tmp_path):
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "1.png").symlink_to(cells / "a.png")
    assert len(find_image_sources([tmp_path / "chosen"])) == 1


def test_hidden_files_and_those_of_macos_are_passed_over(cells, tmp_path):
    (cells / "._a.png").write_bytes(b"no image")
    (cells / "__MACOSX").mkdir()
    (cells / "__MACOSX" / "b.png").write_bytes(b"no image")
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("__MACOSX/._a.png", b"no image")
        stream.write(cells / "a.png", "a.png")
    names = [source.name for source in find_image_sources([archive, cells])]
    assert names == ["cells.zip/a.png", "cells/a.png", "cells/b.png", "cells/deeper/c.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_damaged_byte_of_a_zip_is_a_data_error(method, tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.bmp")
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w", method) as stream:
        stream.write(tmp_path / "x.bmp", "x.bmp")
    content = archive.read_bytes()
    refused = []
    for place in range(30, len(content) - 80, 5):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        archive.write_bytes(damaged)
        with contextlib.suppress(DataError):
            find_image_sources([str(archive)])[0].read()
            continue
        refused.append(place)
    assert len(refused) > 50
