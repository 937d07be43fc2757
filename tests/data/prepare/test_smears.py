import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.voc import load_voc
from wbcnets.data.duplicates.leaks import find_leaks, smear_sides
from wbcnets.data.prepare.sources import copy_images, find_layout
from wbcnets.errors import DataError


def load(folder, split):
    return load_coco(folder / "annotations" / f"{split}.json", folder / "images")


def test_bccd(prepare, shared, tmp_path, capsys):
    assert prepare("bccd", shared("bccd"), tmp_path) == 0
    printed = capsys.readouterr().out
    for text in ("BloodImage_00338.xml", "BloodImage_00343.xml", "3,350 -> 3,348"):
        assert text in printed
    datasets = {split: load(tmp_path, split) for split in ("trainval", "test", "train", "val")}
    assert {name: len(d.images) for name, d in datasets.items()} == DETECTION_CARDS["bccd"].splits
    assert (tmp_path / "report.txt").read_text() in printed
    assert datasets["trainval"].counts.n_used + datasets["test"].counts.n_used == 4886
    assert datasets["test"].class_names == ("RBC", "WBC", "Platelets")
    assert datasets["test"].category_ids == (1, 2, 3)


@pytest.mark.long
def test_txl_pbc_and_its_bccd_images(prepare, shared, tmp_path, capsys):
    source = shared("txl_pbc_trainval.zip")
    assert prepare("txl_pbc", source, tmp_path / "all") == 0
    assert prepare("txl_pbc", source, tmp_path / "rest", "--without-bccd") == 0
    assert "101 images left out" in capsys.readouterr().out
    everything = load(tmp_path / "all", "train"), load(tmp_path / "all", "val")
    rest = load(tmp_path / "rest", "train"), load(tmp_path / "rest", "val")
    assert [len(d.images) for d in everything] == [882, 252]
    assert [len(d.images) for d in rest] == [781, 211]
    assert sum(d.counts.n_used for d in everything) == 16262 - 34
    assert everything[0].class_names == ("RBC", "WBC", "Platelets")
    bccd = shared("bccd")
    stems = (bccd / "ImageSets" / "Main" / "test.txt").read_text().split()
    files = [bccd / "Annotations" / f"{stem}.xml" for stem in stems]
    test = smear_sides(load_voc(files, bccd / "JPEGImages"), "test")

    def leaks(datasets):
        train = [image for dataset in datasets for image in smear_sides(dataset, "train")]
        return find_leaks([*train, *test], "smears")

    assert sum(leak.certain for leak in leaks(everything)) == 26
    assert leaks(rest) == []


def test_txl_pbc_subtypes(prepare, shared, tmp_path):
    source = shared("txl_pbc_trainval.zip")
    assert prepare("txl_pbc", source, tmp_path, "--classes", "subtype") == 0
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert len(train.images) + len(val.images) == 588
    assert train.class_names == DETECTION_CARDS["txl_pbc_subtype"].class_names
    assert val.box_counts == {
        "neutrophil": 51,
        "eosinophil": 24,
        "basophil": 17,
        "lymphocyte": 22,
        "monocyte": 28,
    }


def write_labelme(folder, stem, label, box=((5, 6), (25, 30))):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (200, 180, 190)).save(folder / f"{stem}.jpg")
    shape = {"label": label, "shape_type": "rectangle", "points": box, "group_id": None}
    content = {"imagePath": f"..\\{stem}.jpg", "imageData": None, "shapes": [shape]}
    (folder / f"{stem}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["lisc", "wbcdd"])
@pytest.mark.parametrize("layout", ["folders", "lists", "zip"])
def test_labelme_sets(prepare, tmp_path, capsys, name, layout):
    source, output = tmp_path / "source", tmp_path / "out"
    splits = {"train": [("n1", "NEU"), ("e1", "eosinophil")], "test": [("m1", "MON")]}
    for split, entries in splits.items():
        folder = source / "set" if layout == "lists" else source / "set" / split
        for stem, label in entries:
            write_labelme(folder, stem, label)
        if layout == "lists":
            (folder / f"{split}.txt").write_text("\n".join(stem for stem, _ in entries))
    if layout == "zip":
        archive = tmp_path / "set.zip"
        with zipfile.ZipFile(archive, "w") as target:
            for path in sorted(source.rglob("*.*")):
                target.write(path, path.relative_to(source))
        source = archive
    assert prepare(name, source, output) == 1
    message = capsys.readouterr().err
    assert f"train: 2 images, expected {DETECTION_CARDS[name].splits['train']}" in message
    assert message.endswith("see --allow-other-counts\n")
    assert not (output / "annotations").exists()
    assert prepare(name, source, output, "--allow-other-counts") == 0
    train = load(output, "train")
    assert train.box_counts == {
        "neutrophil": 1,
        "eosinophil": 1,
        "basophil": 0,
        "lymphocyte": 0,
        "monocyte": 0,
    }
    assert train.images[0].boxes.tolist() == [[5, 6, 20, 24]]
    assert {Path(image.file_name).parent.name for image in train.images} == {"train"}
    assert load(output, "test").box_counts["monocyte"] == 1


def test_labelme_sets_with_missing_partners(prepare, tmp_path, capsys):
    for split in ("train", "test"):
        write_labelme(tmp_path / "source" / split, "a", "NEU")
    (tmp_path / "source" / "train" / "a.jpg").rename(tmp_path / "source" / "train" / "b.jpg")
    assert prepare("lisc", tmp_path / "source", tmp_path / "out") == 1
    assert "there is no image of this stem" in capsys.readouterr().err
    (tmp_path / "source" / "train" / "a.json").rename(tmp_path / "source" / "train" / "b.json")
    Image.new("RGB", (9, 9)).save(tmp_path / "source" / "train" / "c.jpg")
    assert prepare("lisc", tmp_path / "source", tmp_path / "out") == 1
    assert "c.jpg: has no .json file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bccd", "txl_pbc", "lisc", "wbcdd"])
def test_sources_that_are_another_dataset(prepare, tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert prepare(name, tmp_path / "none", tmp_path / "out") == 1
    assert f"{tmp_path / 'none'}: the source does not exist" in capsys.readouterr().err
    assert prepare(name, tmp_path / "empty", tmp_path / "out") == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err


def test_layouts_below_the_source(tmp_path):
    inner = tmp_path / "set-main" / "BCCD"
    (inner / "ImageSets").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "ImageSets").mkdir(parents=True)
    assert find_layout(tmp_path, "ImageSets") == inner
    (tmp_path / "copy" / "ImageSets").mkdir(parents=True)
    with pytest.raises(DataError, match="2 times"):
        find_layout(tmp_path, "ImageSets")
    with pytest.raises(DataError, match=r"holds no metadata\.csv"):
        find_layout(tmp_path, "metadata.csv")


def test_damaged_images_are_all_listed(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    files = [tmp_path / name for name in ("bad.png", "good.png", "none.png")]
    with pytest.raises(DataError) as caught:
        copy_images(files, tmp_path / "out")
    assert len(caught.value.problems) == 2
    copies = copy_images(files[1:2], tmp_path / "out")
    assert copies[0].read_bytes() == files[1].read_bytes()
