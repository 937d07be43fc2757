"""The format of a dataset, its annotation files, and the folder of its images."""

import os

import pytest

from tests.stress.faults.builders import (
    voc_text,
    write_cells,
    write_coco,
    write_labelme,
    write_pictures,
    write_voc,
    write_yolo,
)
from wbcnets.data.check.formats import FoundSet, find_sets
from wbcnets.errors import DataError

MANIFEST = "# wbcnets manifest 1 cells\nfile,class,split,group,sha256\n"


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_json_file_of_a_folder_is_a_set_of_its_own(tmp_path):
    write_coco(tmp_path)
    second = write(tmp_path / "val.json", (tmp_path / "train.json").read_text())
    images = tmp_path / "images"
    first, other = find_sets(tmp_path)
    assert first == FoundSet(tmp_path / "train.json", "coco", images, (tmp_path / "train.json",))
    assert other == FoundSet(second, "coco", images, (second,))
    assert find_sets(second) == [other]


def test_the_files_of_other_formats_are_one_set(tmp_path):
    voc = write_voc(write(tmp_path / "voc" / "x.txt").parent)
    files = (voc / "Annotations" / "a.xml", voc / "Annotations" / "b.xml")
    assert find_sets(voc) == [FoundSet(voc, "voc", voc / "JPEGImages", files)]
    labelme = write_labelme(tmp_path / "labelme")
    files = (labelme / "a.json", labelme / "b.json")
    assert find_sets(labelme) == [FoundSet(labelme, "labelme", labelme, files)]


@pytest.mark.parametrize("name", ["one.xml", "ONE.XML"])
def test_one_file_of_voc(tmp_path, name):
    path = write(tmp_path / name, voc_text())
    assert find_sets(path) == [FoundSet(path, "voc", tmp_path, (path,))]


def test_one_file_of_labelme(tmp_path):
    path = write_labelme(tmp_path) / "a.json"
    assert find_sets(path) == [FoundSet(path, "labelme", tmp_path, (path,))]


def test_a_class_called_shapes_makes_no_labelme(tmp_path):
    path = write_coco(tmp_path, lambda data: data["categories"][0].update(name="shapes"))
    assert find_sets(path)[0].format == "coco"


@pytest.mark.parametrize("part", ["annotations", "annotations.json"])
def test_annotations_in_their_own_folder_are_told_from_other_files(tmp_path, part):
    write_pictures(tmp_path / "images")
    write(tmp_path / "package.json", "{}")
    path = write(tmp_path / part / "train.json", '{"images": []}')
    assert find_sets(tmp_path) == [FoundSet(path, "coco", tmp_path / "images", (path,))]


def test_annotations_may_be_links_to_files_elsewhere(tmp_path):
    original = write(tmp_path / "elsewhere" / "train.json", "{}")
    (tmp_path / "set").mkdir()
    link = tmp_path / "set" / "train.json"
    link.symlink_to(original)
    assert find_sets(tmp_path / "set") == [FoundSet(link, "coco", tmp_path / "set", (link,))]


def test_voc_in_its_own_folder_is_told_from_other_files(tmp_path):
    write(tmp_path / "pom.xml", "<project/>")
    path = write(tmp_path / "annotations.xml" / "a.xml", voc_text())
    assert find_sets(tmp_path) == [FoundSet(tmp_path, "voc", path.parent, (path,))]


@pytest.mark.parametrize("name", ["images", "JPEGImages", "imgs", "img"])
@pytest.mark.parametrize("part", ["", "annotations", "annotations/instances"])
def test_images_lie_beside_the_annotations_or_one_folder_up(tmp_path, name, part):
    path = write(tmp_path / part / "train.json", "{}")
    folder = tmp_path if part.count("/") == 0 else tmp_path / "annotations"
    write_pictures(folder / name)
    assert find_sets(path)[0].images == folder / name


def test_images_of_a_folder_lie_in_it_rather_than_beside_a_deep_file(tmp_path):
    write(tmp_path / "annotations" / "v2" / "train.json", "{}")
    for folder in (tmp_path, tmp_path / "annotations"):
        write_pictures(folder / "images")
    assert find_sets(tmp_path)[0].images == tmp_path / "images"


def test_a_named_folder_of_images_goes_first(tmp_path):
    other = tmp_path / "other"
    for kind, make in (("coco", write_coco), ("voc", write_voc), ("yolo", write_yolo)):
        folder = tmp_path / kind
        folder.mkdir()
        make(folder)
        (found,) = find_sets(folder, other)
        assert (found.format, found.images) == (kind, other)


def test_a_named_format_goes_before_what_is_seen(tmp_path):
    path = write_cells(tmp_path)
    with pytest.raises(DataError, match="cells: holds no annotation files of the format labelme"):
        find_sets(path, None, "labelme")
    write(path / "train.json", "{}")
    assert find_sets(path)[0].format == "coco"
    assert find_sets(path, None, "cells") == [FoundSet(path, "cells", path)]


def test_cells_are_a_folder_a_table_or_a_manifest(tmp_path):
    folder = write_cells(tmp_path)
    table = write(tmp_path / "cells.csv", "file,label\n")
    assert find_sets(folder) == [FoundSet(folder, "cells", folder)]
    assert find_sets(table) == [FoundSet(table, "cells", table)]
    manifest = write(folder / "manifest.csv", MANIFEST)
    expected = [FoundSet(manifest, "manifest", folder)]
    assert find_sets(folder) == find_sets(manifest) == expected
    write(folder / "labels" / "metadata.xml", "<x/>")
    assert find_sets(folder) == expected
    # Somebody else's file of that name
    manifest.write_text("file,label\n")
    assert find_sets(folder) == [FoundSet(folder, "cells", folder)]


def test_archives_are_cells(tmp_path):
    for name in ("a.zip", "a.npz", "A.CSV"):
        path = write(tmp_path / name)
        assert find_sets(path) == [FoundSet(path, "cells", path)]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        find_sets(write(tmp_path / "notes.txt"))
    assert str(caught.value) == (
        f"{tmp_path}/notes.txt: is neither a folder nor one of .json, .xml, .csv, .zip, .npz - "
        "give the annotations or the folder of the images"
    )
    with pytest.raises(DataError, match=r"x\.json: there is no such file or folder - correct"):
        find_sets(tmp_path / "x.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json: is a pipe or a device - give a file or"):
        find_sets(tmp_path / "pipe.json")


CLASSES = ("neutrophil", "lymphocyte")


def test_yolo_with_labels_in_their_own_folder(tmp_path):
    root = write_yolo(tmp_path)
    labels = (root / "labels",)
    assert find_sets(root) == [FoundSet(root, "yolo", root / "images", labels, CLASSES)]
    (root / "classes.txt").rename(root / "labels" / "classes.txt")
    assert find_sets(root)[0].class_names == CLASSES
    (root / "labels" / "classes.txt").unlink()
    assert find_sets(root)[0].class_names == ()


def test_yolo_with_labels_beside_the_images(tmp_path):
    write_pictures(tmp_path, ("a.PNG", "b.png"))
    write(tmp_path / "b.txt")
    assert find_sets(tmp_path)[0] == FoundSet(tmp_path, "yolo", tmp_path, (tmp_path,))
    (tmp_path / "b.txt").rename(tmp_path / "A.txt")
    assert find_sets(tmp_path)[0].format == "cells"
    (tmp_path / "A.txt").rename(tmp_path / "a.TXT")
    assert find_sets(tmp_path)[0].format == "yolo"


def test_yolo_with_a_data_file_but_no_labels(tmp_path):
    write(tmp_path / "data.yaml", "names: [a]\n")
    with pytest.raises(DataError, match='expected a YOLO folder with "images" and "labels"'):
        find_sets(tmp_path)
    file = write(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"a\.txt: expected a YOLO folder"):
        find_sets(file, None, "yolo")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [WBC, 7]\n", ("WBC", "7")),
        ("names: {1: RBC, 0: WBC}\n", ("WBC", "RBC")),
        ("names: []\n", ()),
        ("train: images\n", ()),
        ("", ()),
    ],
)
def test_classes_of_yolo_from_its_data_file(tmp_path, text, names):
    root = write_yolo(tmp_path)
    write(root / "data.yaml", text)
    # The list of classes goes first
    assert find_sets(root)[0].class_names == CLASSES
    (root / "classes.txt").unlink()
    assert find_sets(root)[0].class_names == names


@pytest.mark.parametrize(
    "text",
    ["names: WBC\n", "names: {0: WBC, 2: RBC}\n", "names: [WBC, 1.5]\n", "names: 3\n", "[WBC]\n"],
)
def test_classes_of_yolo_that_cannot_be_numbered(tmp_path, text):
    root = write_yolo(tmp_path)
    (root / "classes.txt").unlink()
    write(root / "data.yaml", text)
    message = r"data\.yaml: names are .* - expected names: \[\.\.\.\], or names of 0, 1, 2, \.\.\."
    with pytest.raises(DataError, match=message):
        find_sets(root)


def test_a_data_file_of_yolo_that_is_no_yaml(tmp_path):
    root = write_yolo(tmp_path)
    (root / "classes.txt").unlink()
    write(root / "data.yaml", "names: [")
    with pytest.raises(DataError, match=r"(?s)data\.yaml: cannot be used \(.* - expected names"):
        find_sets(root)


def test_long_names_are_shown_in_part(tmp_path):
    root = write_yolo(tmp_path)
    (root / "classes.txt").unlink()
    write(root / "data.yaml", f"names: [1.5{', cell' * 1000}]")
    with pytest.raises(DataError, match=r"names are .* - expected names") as caught:
        find_sets(root)
    assert len(str(caught.value)) < 400 + len(str(root))
