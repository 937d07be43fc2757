import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.data.cells.cell_images import draw_cell, make_class_folders, save_cell
from wbcnets.cli.main import main
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cells.checks import fingerprint_manifest
from wbcnets.data.cells.loading import load_cells
from wbcnets.data.cells.manifest import read_manifest, verify_hashes
from wbcnets.data.cells.splits import repeat_classes
from wbcnets.data.duplicates.leaks import cell_sides, find_leaks


def zip_folder(folder, archive):
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder))
    return archive


@pytest.mark.long
def test_pbc_with_its_given_splits(prepare, shared, tmp_path, capsys):
    assert prepare("pbc", shared("pbc112_trainval.zip"), tmp_path) == 0
    printed = capsys.readouterr().out
    assert "13736 read = 13736 used as they are + 0 repaired + 0 dropped" in printed
    # The same cells, cut out twice
    assert "leaks between them: 3 near duplicate" in printed
    assert "IG_466905.jpg [train]" in printed
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").splitlines()[0] in printed
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert manifest.class_names == CLASSIFICATION_CARDS["pbc"].class_names
    assert manifest.split("train").counts() == (874, 2204, 1086, 2024, 870, 1015, 2353, 1644)
    assert manifest.split("val").counts() == (115, 302, 155, 290, 109, 135, 326, 234)


def test_pbc_class_folders(prepare, shared, tmp_path, capsys):
    source = shared("pbc_sample_360.zip")
    assert prepare("pbc", source, tmp_path / "a") == 1
    assert "basophil: 25 images, expected 1218" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    options = ("--allow-other-counts", "--classes", "5")
    assert prepare("pbc", source, tmp_path / "a", *options) == 0
    assert "75 images of erythroblast, ig, platelet left out" in capsys.readouterr().out
    manifest = load_cells(tmp_path / "a")
    assert manifest.name == "pbc5"
    assert manifest.split("train").counts() == (20,) * 5
    assert manifest.split("val").counts() == (5,) * 5
    verify_hashes(manifest)
    assert prepare("pbc", source, tmp_path / "b", *options) == 0
    assert load_cells(tmp_path / "b").images == manifest.images
    assert prepare("pbc", source, tmp_path / "c", *options, "--seed", "1") == 0
    assert load_cells(tmp_path / "c").images != manifest.images


def test_all_idb2(prepare, tmp_path, capsys):
    for number in range(1, 11):
        save_cell(tmp_path / "source" / "img" / f"Im{number:03d}_{number % 2}.tif", number)
    options = ("--allow-other-counts",)
    assert prepare("all_idb2", tmp_path / "source", tmp_path / "out", *options) == 0
    manifest = load_cells(tmp_path / "out")
    assert manifest.class_names == ("healthy", "blast")
    assert {image.file.split("_")[-1][0] for image in manifest.images if image.label} == {"1"}
    assert manifest.split("val").counts() == (1, 1)
    save_cell(tmp_path / "source" / "img" / "Im011_2.tif", 11)
    assert prepare("all_idb2", tmp_path / "source", tmp_path / "out", *options) == 1
    assert "Im011_2.tif: expected ImXXX_0 or ImXXX_1" in capsys.readouterr().err


def test_cnmc_keeps_patients_apart(prepare, tmp_path, capsys):
    seed = 0
    for patient in range(30):
        name = ("all", "hem")[patient % 2]
        person = f"H{patient}" if name == "hem" else str(patient)
        folder = tmp_path / "source" / "training" / f"fold_{patient % 3}" / name
        for number in range(3):
            save_cell(folder / f"UID_{person}_{number}_1_{name}.bmp", seed := seed + 1)
    test = tmp_path / "source" / "prelim"
    save_cell(test / "images" / "1.bmp", 1001)
    save_cell(test / "images" / "2.bmp", 1002)
    (test / "labels.csv").write_text(
        "Patient_ID,new_names,labels\nUID_0_9_1_all.bmp,1.bmp,1\nUID_H77_1_1_hem.bmp,2.bmp,0\n"
    )
    save_cell(tmp_path / "source" / "final" / "7.bmp", 1003)
    options = ("--allow-other-counts",)
    assert prepare("cnmc", tmp_path / "source", tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    assert "cnmc: 31 patients or slides" in printed
    assert "neither in all/ or hem/ nor in a table" in printed
    manifest = load_cells(tmp_path / "out")
    assert manifest.class_names == ("hem", "all")
    assert manifest.counts() == (46, 46)
    splits = {}
    for image in manifest.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sum(image.group == "0" for image in manifest.images) == 4
    assert set(manifest.splits) == {"train", "val", "test"}
    save_cell(tmp_path / "source" / "training" / "fold_0" / "all" / "odd.bmp", 2000)
    assert prepare("cnmc", tmp_path / "source", tmp_path / "out", *options) == 1
    assert '"odd.bmp" does not name the patient' in capsys.readouterr().err


def write_bloodmnist(path, side=28, n=(16, 8, 8), **changes):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "val", "test"), n):
        shape = (count, side, side, 3)
        arrays[f"{split}_images"] = generator.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 8
    np.savez_compressed(path, **{**arrays, **changes})
    return arrays


@pytest.mark.parametrize("side", [28, 64])
def test_bloodmnist(prepare, tmp_path, capsys, side):
    path = tmp_path / "bloodmnist_64.npz"
    arrays = write_bloodmnist(path, side)
    assert prepare("bloodmnist", path, tmp_path / "out") == 0
    manifest = load_cells(tmp_path / "out")
    assert manifest.name == "bloodmnist_64"
    assert manifest.class_names == CLASSIFICATION_CARDS["bloodmnist"].class_names
    assert manifest.splits == {"train": 16, "val": 8, "test": 8}
    for image in manifest.images:
        number = int(image.file.rsplit("_", 1)[1][:5])
        pixels = np.array(Image.open(manifest.path(image)))
        assert (pixels == arrays[f"{image.split}_images"][number]).all()
        assert image.label == number % 8


def test_files_that_are_not_bloodmnist(prepare, tmp_path, capsys):
    path = tmp_path / "bloodmnist.npz"
    write_bloodmnist(
        path,
        train_labels=np.full(16, 8),
        val_images=np.zeros((8, 28, 28), dtype=np.uint8),
        test_labels=np.array([{"a": 1}] * 8, dtype=object),
    )
    assert prepare("bloodmnist", path, tmp_path / "out") == 1
    assert "Object arrays cannot be loaded" in capsys.readouterr().err
    write_bloodmnist(
        path, train_labels=np.full(16, 8), val_images=np.zeros((8, 28, 28), dtype=np.uint8)
    )
    assert prepare("bloodmnist", path, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "train_labels run from 8 to 8" in message
    assert "val_images is uint8 (8, 28, 28), expected" in message
    path.write_bytes(b"no zip")
    assert prepare("bloodmnist", path, tmp_path / "out") == 1
    assert "cannot be read as an npz file" in capsys.readouterr().err


def test_bmcd_folders_by_number_name_and_the_papers_spelling(prepare, tmp_path):
    make_class_folders(tmp_path / "source", {"0": 3, "01": 3, "Promyelocyte": 3, "Bistocyte": 3})
    options = ("--allow-other-counts", "--protocol", "2:1")
    assert prepare("bmcd_fgcd", tmp_path / "source", tmp_path / "out", *options) == 0
    manifest = load_cells(tmp_path / "out")
    assert len(manifest.class_names) == 40
    assert {k: n for k, n in enumerate(manifest.counts()) if n} == {0: 3, 1: 3, 2: 3, 37: 3}
    assert manifest.splits == {"train": 8, "val": 4}


def test_ten_classes_of_aml_lmu_are_capped_before_the_split(prepare, tmp_path, monkeypatch, capsys):
    names = CLASSIFICATION_CARDS["aml_lmu"].class_names
    make_class_folders(tmp_path / "source", dict.fromkeys(names, 12))
    monkeypatch.setitem(CLASSIFICATION_CARDS["aml_lmu10"].caps, "NGS", 7)
    options = ("--allow-other-counts", "--classes", "10")
    assert prepare("aml_lmu", tmp_path / "source", tmp_path / "out", *options) == 0
    assert "60 images of LYA, PMB, MMZ, MOB, KSC left out" in capsys.readouterr().out
    manifest = load_cells(tmp_path / "out")
    assert manifest.counts() == (7, *(12,) * 9)
    assert set(manifest.splits) == {f"fold{k}" for k in range(5)}
    repeated = repeat_classes(manifest, CLASSIFICATION_CARDS["aml_lmu10"].repeats)
    assert repeated.counts()[1] == 60


def test_a_table_with_odd_labels_and_equal_names(prepare, tmp_path):
    rows = ["file,label,group"]
    for number in range(12):
        save_cell(tmp_path / "source" / f"day{number % 3}" / f"{number // 3}.png", number)
        rows.append(f"day{number % 3}/{number // 3}.png,../{'ab'[number % 2]},day{number % 3}")
    (tmp_path / "source" / "cells.csv").write_text("\n".join(rows))
    source, options = tmp_path / "source" / "cells.csv", ("--protocol", "3 folds")
    assert prepare("cells", source, tmp_path / "out", *options) == 0
    manifest = load_cells(tmp_path / "out")
    assert manifest.class_names == ("../a", "../b")
    assert len({image.file for image in manifest.images}) == 12
    assert all(image.file.startswith("images/_") for image in manifest.images)
    verify_hashes(manifest)
    folds = {image.group: image.split for image in manifest.images}
    assert sorted(folds.values()) == ["fold0", "fold1", "fold2"]
    archive = zip_folder(tmp_path / "source", tmp_path / "cells.zip")
    assert prepare("cells", archive, tmp_path / "zip", *options) == 0
    assert load_cells(tmp_path / "zip").images == manifest.images


@pytest.mark.parametrize("name", ["/etc/a/1.png", "../a/1.png", "a\\..\\1.png"])
def test_zips_that_lead_out(prepare, tmp_path, capsys, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"x")
    assert prepare("cells", tmp_path / "bad.zip", tmp_path / "out") == 1
    assert "leads out of the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def leaky(tmp_path):
    """Splits that share an image, a near duplicate and a patient."""
    source = tmp_path / "leaky"
    for number in range(6):
        save_cell(source / "train" / "a" / f"p{number}_1.png", number, side=96)
        save_cell(source / "val" / "a" / f"q{number}_1.png", 50 + number, side=96)
    save_cell(source / "val" / "a" / "q0_copy.bmp", 0, side=96)
    shifted = np.roll(draw_cell(1, side=96), 3, axis=1)
    Image.fromarray(shifted).save(source / "val" / "a" / "q1_near.png")
    save_cell(source / "val" / "a" / "p2_2.png", 99, side=96)
    return source


def test_leaks_between_given_splits(prepare, leaky, tmp_path, capsys):
    options = ("--group-pattern", r"^(?P<group>\w\d)_")
    assert prepare("cells", leaky, tmp_path / "out", *options) == 1
    message = capsys.readouterr().err
    for part in (
        "p0_1.png [train]",
        "q0_copy.bmp [val]: equal pixels",
        'patient or slide "p2" is in train and val',
    ):
        assert part in message
    assert not (tmp_path / "out" / "manifest.csv").exists()
    options = (*options, "--leaks")
    assert prepare("cells", leaky, tmp_path / "kept", *options, "keep") == 0
    assert load_cells(tmp_path / "kept").splits == {"train": 6, "val": 9}
    assert "1 equal pixels, 1 near duplicate, 1 same group" in capsys.readouterr().out
    assert prepare("cells", leaky, tmp_path / "repaired", *options, "drop") == 0
    repaired = load_cells(tmp_path / "repaired")
    assert repaired.splits == {"train": 3, "val": 9}
    assert find_leaks(cell_sides(repaired, fingerprint_manifest(repaired)), "cells") == []
    assert "15 read = 12 used as they are + 0 repaired + 3 dropped" in capsys.readouterr().out


def test_given_splits_can_be_replaced_and_must_be_whole(prepare, leaky, tmp_path, capsys):
    options = ("--protocol", "2 folds")
    assert prepare("cells", leaky, tmp_path / "out", *options) == 0
    manifest = load_cells(tmp_path / "out")
    assert set(manifest.splits) == {"fold0", "fold1"}
    assert find_leaks(cell_sides(manifest, fingerprint_manifest(manifest)), "cells") == []
    assert prepare("cells", leaky / "val", tmp_path / "x", "--protocol", "given") == 1
    assert (
        "have no split - choose a protocol, such as 8:2; see --protocol" in capsys.readouterr().err
    )
    assert prepare("cells", leaky / "val", tmp_path / "x", "--protocol", "9") == 2
    assert 'split protocol "9" is unknown' in capsys.readouterr().err


def test_an_earlier_preparation_is_not_replaced(prepare, leaky, tmp_path, capsys):
    output = tmp_path / "prepared"
    assert prepare("cells", leaky, output, "--leaks", "keep") == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other = tmp_path / "other"
    for number in range(12):
        save_cell(other / "ab"[number % 2] / f"{number}.png", 200 + number)
    assert prepare("cells", other, output) == 2
    assert prepare("bccd", other, output) == 2
    assert capsys.readouterr().err.count("holds an earlier result of wbcnets prepare") == 2
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_dataset_without_card_needs_an_output(leaky, capsys):
    assert main(["prepare", "cells", "--source", str(leaky)]) == 2
    assert (
        "needs an output folder, such as datasets/my_cells; see --output" in capsys.readouterr().err
    )


def test_cards_take_other_folder_names(prepare, tmp_path):
    counts = {"Baso": 5, "eosi": 5, "lymp": 5, "mixt": 5, "mono": 5, "neut": 5}
    make_class_folders(tmp_path / "source", counts)
    options = ("--card", "lisc_cells")
    assert prepare("cells", tmp_path / "source", tmp_path / "out", *options) == 0
    manifest = load_cells(tmp_path / "out")
    assert manifest.class_names == CLASSIFICATION_CARDS["lisc_cells"].class_names
    assert manifest.counts() == (5,) * 5
