from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cells.cell_images import draw_cell, make_class_folders, save_cell
from wbcnets.data.cells.manifest import CellImage, CellManifest
from wbcnets.data.cells.splits import (
    cap_classes,
    find_units,
    parse_protocol,
    repeat_classes,
    select_fold,
    split_cells,
)
from wbcnets.data.duplicates.near_duplicates import duplicate_pairs
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.image_facts import fingerprint_image


def unlike(number):
    """Fingerprints of images that are all different, made from noise."""
    generator = np.random.default_rng(1)
    noise = generator.integers(0, 256, (number, 24, 24, 3), dtype=np.uint8)
    return [fingerprint_image(image) for image in noise]


def make(counts, groups=None):
    images = []
    for label, count in enumerate(counts):
        for _ in range(count):
            number = len(images)
            group = groups[number] if groups else ""
            images.append(CellImage(f"{number:05d}.png", label, "", group, ""))
    names = tuple(f"class{label}" for label in range(len(counts)))
    return CellManifest("set", Path("nowhere"), names, tuple(images))


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("8:2", {"train": (40, 16, 4, 0), "val": (10, 4, 1, 0)}),
        ("7:1:2", {"train": (35, 14, 3, 0), "val": (5, 2, 1, 0), "test": (10, 4, 1, 0)}),
        ("5 folds", {f"fold{k}": (10, 4, 1, 0) for k in range(5)}),
    ],
)
def test_fractions_are_exact_per_class(protocol, expected):
    manifest = make((50, 20, 5, 0))
    result = split_cells(manifest, protocol, 3, unlike(75))
    assert {name: result.split(name).counts() for name in result.splits} == expected
    assert [replace(image, split="") for image in result.images] == list(manifest.images)


def test_seed_decides_and_file_order_does_not():
    manifest, prints = make((30, 12)), unlike(42)
    first = {image.file: image.split for image in split_cells(manifest, "8:2", 1, prints).images}
    order = np.random.default_rng(0).permutation(42)
    shuffled = replace(manifest, images=tuple(manifest.images[i] for i in order))
    again = split_cells(shuffled, "8:2", 1, [prints[i] for i in order])
    assert {image.file: image.split for image in again.images} == first
    other = {image.file: image.split for image in split_cells(manifest, "8:2", 2, prints).images}
    assert other != first


def test_patients_stay_together():
    generator = np.random.default_rng(5)
    sizes = generator.integers(2, 40, 60)
    groups = [f"patient{k}" for k, size in enumerate(sizes) for _ in range(size)]
    labels = [int(k % 3 == 0) for k, size in enumerate(sizes) for _ in range(size)]
    manifest = make((len(groups), 0), groups)
    images = tuple(replace(image, label=lab) for image, lab in zip(manifest.images, labels))
    manifest = replace(manifest, images=images)
    result = split_cells(manifest, "7:1:2", 0, unlike(len(groups)))
    by_patient = {}
    for image in result.images:
        by_patient.setdefault(image.group, set()).add(image.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    totals = np.array(manifest.counts())
    for name, fraction in parse_protocol("7:1:2").items():
        assert np.abs(np.array(result.split(name).counts()) / totals - fraction).max() < 0.05


def test_near_duplicates_stay_together_and_patients_join_them():
    big = [draw_cell(seed, side=96) for seed in range(30)]
    shifted = np.roll(big[0], (3, 2), axis=(0, 1))
    smaller = np.array(Image.fromarray(big[1]).resize((64, 64), Image.Resampling.BICUBIC))
    prints = [fingerprint_image(image) for image in (*big, shifted, smaller, big[2])]
    groups = ["" for _ in prints]
    groups[2] = groups[5] = "p"
    units = [unit for unit in find_units(make((33,), groups), prints) if len(unit) > 1]
    assert sorted(units) == [[0, 30], [1, 31], [2, 5, 32]]
    correlations = {(a, b): c for a, b, c in duplicate_pairs(prints)}
    assert set(correlations) == {(0, 30), (1, 31), (2, 32)}
    assert correlations[2, 32] == 1.0
    assert all(0.95 <= correlations[pair] < 1 for pair in ((0, 30), (1, 31)))


def test_small_classes_are_named():
    manifest, prints = make((40, 3, 0, 4)), unlike(47)
    with pytest.raises(DataError) as caught:
        split_cells(manifest, "5 folds", 0, prints)
    assert caught.value.problems == (
        "class1: 3 images in 3 groups, 5 splits",
        "class3: 4 images in 4 groups, 5 splits",
    )
    assert caught.value.setting == "allow_rare"
    assert str(caught.value).startswith(
        "set: classes are too small to be in every split - merge them, leave them out, use fewer "
        "splits, or allow rare classes\n"
    )
    result = split_cells(manifest, "5 folds", 0, prints, allow_rare=True)
    assert result.counts() == (40, 3, 0, 4)
    assert max(result.split(f"fold{k}").counts()[1] for k in range(5)) == 1


def split_groups(sizes, protocol, seed=0, singles=0):
    """Splits one class of groups of these sizes and of single images; returns sizes per split."""
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    groups += [""] * singles
    manifest = make((len(groups),), groups)
    result = split_cells(manifest, protocol, seed, unlike(len(groups)), allow_rare=True)
    assert set(result.splits) <= set(parse_protocol(protocol))
    return [result.splits.get(name, 0) for name in parse_protocol(protocol)]


@pytest.mark.parametrize(
    ("count", "protocol", "expected"),
    [
        (3, "8:1:1", [1, 1, 1]),
        (4, "20:1:1", [2, 1, 1]),
        (2, "8:2", [1, 1]),
        # 5.6, 2.3 and 1.1: the largest remainder gets the odd image
        (9, "5:2:1", [6, 2, 1]),
        (5, "1:1", [3, 2]),
    ],
)
def test_few_images_reach_every_split_if_possible(count, protocol, expected):
    assert split_groups([], protocol, singles=count) == expected


@pytest.mark.parametrize("seed", range(4))
def test_large_groups_are_assigned_first(seed):
    # 3 and 3 first would leave 7 to 3
    for sizes in ([4, 3, 3], [3, 3, 4]):
        assert sorted(split_groups(sizes, "5:5", seed)) == [4, 6]
    assert split_groups([2, 2], "5:5", seed) == [2, 2]
    assert split_groups([6, 2, 2], "6:4", seed) == [6, 4]


@pytest.mark.parametrize(("size", "singles"), [(4, 6), (12, 6)])
def test_single_images_fill_the_fractions_beside_groups(size, singles):
    total = size + singles
    assert split_groups([size], "5:5", 0, singles) == [
        max(size, total // 2),
        min(singles, total // 2),
    ]


@pytest.mark.parametrize("number", [2, 100])
def test_folds_are_equal_parts(number):
    assert parse_protocol(f" {number} folds ") == {f"fold{k}": 1 / number for k in range(number)}


@pytest.mark.parametrize(
    "protocol", ["", "8", "8:0", "8-2", "1 folds", "101 folds", "1:1:1:1", "given"]
)
def test_unknown_protocols(protocol):
    with pytest.raises(ConfigError, match="split protocol"):
        parse_protocol(protocol)


def test_folds_in_turn():
    folds = split_cells(make((20, 10)), "5 folds", 0, unlike(30))
    seen = set()
    for number in range(5):
        chosen = select_fold(folds, number)
        assert chosen.splits == {"train": 24, "val": 6}
        seen |= {image.file for image in chosen.split("val").images}
    assert len(seen) == 30
    with pytest.raises(DataError, match="fold5"):
        select_fold(folds, 5)


def test_caps_and_repeats():
    manifest = make((30, 4))
    kept = cap_classes(manifest, {"class0": 10, "class1": 10}, seed=1)
    assert len(kept) == 14
    assert kept != cap_classes(manifest, {"class0": 10}, seed=2)
    assert repeat_classes(manifest, {"class1": 5}).counts() == (30, 20)
    with pytest.raises(DataError, match="no class other"):
        repeat_classes(manifest, {"other": 2})
    with pytest.raises(DataError, match="1 or more"):
        repeat_classes(manifest, {"class1": 0})


def test_a_cap_keeps_the_same_images_of_its_class_in_any_order():
    manifest = make((30, 4))
    kept = {manifest.images[i] for i in cap_classes(manifest, {"class0": 10}, seed=3)}
    assert [sum(image.label == label for image in kept) for label in (0, 1)] == [10, 4]
    order = np.random.default_rng(0).permutation(34)
    shuffled = replace(manifest, images=tuple(manifest.images[i] for i in order))
    indices = cap_classes(shuffled, {"class0": 10}, seed=3)
    assert indices == sorted(indices)
    assert {shuffled.images[i] for i in indices} == kept


def test_the_seed_is_0_unless_it_is_given():
    manifest, prints = make((30, 12)), unlike(42)
    expected = split_cells(manifest, "8:2", 0, prints)
    assert split_cells(manifest, "8:2", fingerprints=prints) == expected
    caps = {"class0": 10}
    assert cap_classes(manifest, caps) == cap_classes(manifest, caps, seed=0)


def test_images_are_read_where_no_fingerprints_are_given(tmp_path):
    make_class_folders(tmp_path, {"a": 5})
    images = tuple(CellImage(f"a/{number}.png", 0) for number in range(5))
    manifest = CellManifest("set", tmp_path, ("a",), images)
    assert split_cells(manifest, "8:2").splits == {"train": 4, "val": 1}
    save_cell(tmp_path / "a" / "3.png", 0, side=2)
    with pytest.raises(DataError, match="1 images cannot be used"):
        split_cells(manifest, "8:2")
