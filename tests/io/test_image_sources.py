import contextlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from wbcnets.errors import DataError
from wbcnets.io.image_sources import find_sources
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
    names = [source.name for source in find_sources([str(cells)])]
    assert names == [str(cells / name) for name in ("a.png", "b.png", "deeper/c.png")]


def test_zip_gives_the_same_pixels_as_files(cells, tmp_path):
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for name in ("a.png", "deeper/c.png", "notes.md"):
            stream.write(cells / name, name)
    sources = find_sources([str(archive)])
    assert [source.name for source in sources] == [f"{archive}:a.png", f"{archive}:deeper/c.png"]
    assert np.array_equal(sources[1].read(), read_image(cells / "deeper" / "c.png"))


def test_unsafe_names_in_a_zip_are_only_read_in_memory(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("../../outside.png", (tmp_path / "x.png").read_bytes())
    before = sorted(tmp_path.parent.rglob("*"))
    (source,) = find_sources([str(archive)])
    assert source.read().shape == (2, 2, 3)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_lists_and_patterns_name_each_image_once(cells, tmp_path):
    (cells / "list.txt").write_text("# two\na.png\n\ndeeper/c.png\n")
    names = [source.name for source in find_sources([str(cells / "list.txt"), f"{cells}/*.png"])]
    assert names == [str(cells / name) for name in ("a.png", "deeper/c.png", "b.png")]


def test_damaged_members_and_missing_files_are_errors_that_name_them(cells, tmp_path):
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("broken.png", b"no image")
    with pytest.raises(DataError, match=r"cells\.zip:broken\.png"):
        find_sources([str(archive)])[0].read()
    (cells / "list.txt").write_text("nowhere.png\n")
    with pytest.raises(DataError, match=r"nowhere\.png"):
        find_sources([str(cells / "list.txt")])[0].read()


@pytest.mark.parametrize("name", ["nowhere", "*.gif"])
def test_inputs_that_are_not_there_are_errors(name, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_sources([str(tmp_path / name)])


def test_no_zip_and_no_images_are_errors(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"x\.zip: no readable zip"):
        find_sources([str(tmp_path / "x.zip")])
    with pytest.raises(DataError, match="no images in"):
        find_sources([str(tmp_path)])


def test_hidden_files_and_those_of_macos_are_passed_over(cells, tmp_path):
    (cells / "._a.png").write_bytes(b"no image")
    (cells / "__MACOSX").mkdir()
    (cells / "__MACOSX" / "b.png").write_bytes(b"no image")
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("__MACOSX/._a.png", b"no image")
        stream.write(cells / "a.png", "a.png")
    assert [source.name for source in find_sources([str(archive)])] == [f"{archive}:a.png"]


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
            find_sources([str(archive)])[0].read()
            continue
        refused.append(place)
    assert len(refused) > 50
