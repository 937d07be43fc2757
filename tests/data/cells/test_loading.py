import hashlib
import logging
from dataclasses import replace

import pytest

from tests.data.cells.cell_images import make_class_folders, save_cell
from wbcnets.data.cells.loading import load_cells
from wbcnets.data.cells.manifest import (
    CellImage,
    CellManifest,
    read_manifest,
    verify_hashes,
    write_manifest,
)
from wbcnets.errors import DataError


@pytest.fixture
def manifest(tmp_path):
    images = []
    for number, (split, name) in enumerate([("train", "a,b"), ("train", "b"), ("val", "b")]):
        path = save_cell(tmp_path / "images" / f"{number} é.png", number)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        images.append(
            CellImage(f"images/{path.name}", ["a,b", "b"].index(name), split, "p1", digest)
        )
    return CellManifest("set", tmp_path, ("a,b", "b", "empty"), tuple(images))


def test_round_trip(manifest, tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(manifest, path)
    assert path.read_text(encoding="utf-8").startswith("# wbcnets manifest 1 {")
    assert read_manifest(path) == manifest
    assert load_cells(path) == load_cells(tmp_path) == manifest


def test_prepared_set_by_name(manifest, tmp_path, monkeypatch):
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert load_cells(tmp_path.name, root=tmp_path.parent).images == manifest.images
    monkeypatch.setenv("WBCNETS_DATASETS", str(tmp_path.parent))
    assert load_cells(tmp_path.name).images == manifest.images
    with pytest.raises(DataError, match="wbcnets prepare pbc"):
        load_cells("pbc")
    with pytest.raises(
        DataError, match='no such path, and dataset "pbx" is unknown - did you mean pbc'
    ):
        load_cells("pbx")


def test_splits_and_counts(manifest):
    assert manifest.counts() == (1, 2, 0)
    assert manifest.splits == {"train": 2, "val": 1}
    assert manifest.split("val").counts() == (0, 1, 0)
    assert manifest.split("val").class_names == manifest.class_names
    with pytest.raises(DataError, match=r'"test" - known are: train 2, val 1'):
        manifest.split("test")
    assert manifest.table().splitlines()[-1].split() == ["all", "2", "1", "3"]


def test_all_problems_of_a_manifest_at_once(manifest, tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(manifest, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace('"a,b"', "c")
    lines[3] = lines[3][:-1]
    lines[4] = "../" + lines[4]
    path.write_text("\n".join([*lines, "x.png,b"]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    for part in ('line 3: images/0 é.png: class "c"', "line 4", "leads out", "2 columns"):
        assert part in text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "file,class,split,group,sha256",
        "# wbcnets manifest 2 {}",
        "# wbcnets manifest 1 {",
        '# wbcnets manifest 1 {"name": "x", "class_names": []}',
        '# wbcnets manifest 1 {"name": "x", "class_names": ["a", "a"]}',
        '# wbcnets manifest 1 {"name": 3, "class_names": ["a"]}',
    ],
)
def test_bad_headers(tmp_path, header):
    path = tmp_path / "manifest.csv"
    path.write_text(header + "\nfile,class,split,group,sha256\n")
    with pytest.raises(DataError, match=r"manifest\.csv:1"):
        read_manifest(path)


def test_missing_and_changed_images(manifest, tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(manifest, path)
    verify_hashes(manifest)
    save_cell(tmp_path / manifest.images[0].file, 99)
    with pytest.raises(DataError, match="1 images were changed") as caught:
        verify_hashes(manifest)
    assert manifest.images[0].file in caught.value.problems[0]
    (tmp_path / manifest.images[1].file).unlink()
    with pytest.raises(DataError, match="1 of 3 images are missing"):
        read_manifest(path)
    assert len(read_manifest(path, must_exist=False).images) == 3


def test_a_manifest_that_would_not_be_read_is_not_written(manifest, tmp_path):
    path = tmp_path / "manifest.csv"
    for wrong in (
        replace(manifest, images=(manifest.images[0], manifest.images[0])),
        replace(manifest, images=(replace(manifest.images[0], sha256="x"),)),
        replace(manifest, images=()),
        replace(manifest, root=tmp_path / "images"),
    ):
        with pytest.raises(DataError):
            write_manifest(wrong, path)
        assert not path.exists()


def test_folder_with_the_classes_of_a_model(tmp_path):
    make_class_folders(tmp_path, {"mono": 1, "NEUT": 2})
    own = load_cells(tmp_path)
    assert (own.class_names, own.counts()) == (("mono", "NEUT"), (1, 2))
    mapped = load_cells(tmp_path, class_names=("neut", "eosi", "mono"))
    assert mapped.class_names == ("neut", "eosi", "mono")
    assert mapped.counts() == (2, 0, 1)
    with pytest.raises(DataError, match='"NEUT" is no class - did you mean "neutr"'):
        load_cells(tmp_path, class_names=("mono", "neutr"))


def test_a_manifest_must_have_the_models_classes(manifest, tmp_path):
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert load_cells(tmp_path, manifest.class_names) == manifest
    with pytest.raises(DataError, match="its classes are"):
        load_cells(tmp_path, ("b", "a,b", "empty"))


def test_an_evaluation_leaves_nothing_out(tmp_path, caplog):
    make_class_folders(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    save_cell(tmp_path / "b" / "dot.png", 1, side=1)
    with pytest.raises(DataError) as caught:
        load_cells(tmp_path)
    assert [line.split(":")[0] for line in caught.value.problems] == ["a/broken.png", "b/dot.png"]
    (tmp_path / "a" / "broken.png").unlink()
    (tmp_path / "b" / "dot.png").unlink()
    save_cell(tmp_path / "b" / "twice.png", 2)
    with caplog.at_level(logging.WARNING):
        assert load_cells(tmp_path).counts() == (2, 2)
    assert "twice.png" in caplog.text or "2.png" in caplog.text


def test_joined_sources_share_classes_and_splits(tmp_path):
    for number, name in enumerate(("first", "second")):
        counts = {"b": 3} if number else {"b": 1, "c": 2}
        make_class_folders(tmp_path / name / "train", counts, start=10 * number)
    source = f"{tmp_path / 'first'} + {tmp_path / 'second'}"
    joint = load_cells(source)
    assert joint.name == "first+second"
    assert joint.class_names == ("b", "c")
    assert joint.splits == {"train": 6}
    assert joint.counts() == (4, 2)
    assert all(joint.path(image).is_file() for image in joint.images)
    assert {joint.path(image).parent.name for image in joint.split("train").images} == {"b", "c"}


def test_a_plus_in_a_folders_name_joins_nothing(tmp_path):
    folder = make_class_folders(tmp_path / "a+b", {"x": 1, "y": 1})
    assert load_cells(folder).class_names == ("x", "y")


def test_every_part_of_a_joined_source_must_exist(tmp_path):
    folder = make_class_folders(tmp_path / "a", {"x": 1, "y": 1})
    with pytest.raises(DataError, match="nothing: there is no such folder"):
        load_cells(f"{folder}+{tmp_path / 'nothing'}")
