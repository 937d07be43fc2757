from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cells.cell_images import draw_cell
from wbcnets.data.cells.manifest import CellImage, CellManifest
from wbcnets.data.cells.splits import split_cells
from wbcnets.data.duplicates.leaks import (
    SideImage,
    apply_leak_policy,
    cell_sides,
    describe_leaks,
    find_leaks,
)
from wbcnets.errors import DataError
from wbcnets.io.image_facts import fingerprint_image, image_facts


def make(splits, groups, digests=()):
    images = [
        CellImage(f"{number}.png", 0, split, group, digests[number] if digests else "")
        for number, (split, group) in enumerate(zip(splits, groups))
    ]
    return CellManifest("set", Path("nowhere"), ("class0",), tuple(images))


def test_cells_leak_by_pixels_likeness_and_patient():
    images = [draw_cell(seed, side=96) for seed in range(6)]
    images[4], images[5] = np.roll(images[1], 3, axis=1), images[0].copy()
    splits = ["train", "train", "train", "val", "val", "val"]
    manifest = make(splits, ["", "", "p", "p", "", ""])
    prints = [fingerprint_image(image) for image in images]
    leaks = find_leaks(cell_sides(manifest, prints), "cells")
    assert [(leak.reason, leak.first, leak.second) for leak in leaks] == [
        ("equal pixels", 0, 5),
        ("near duplicate", 1, 4),
        ("same group", 2, 3),
    ]
    assert [leak.certain for leak in leaks] == [True, False, True]
    equal, near, group = describe_leaks(leaks)
    assert equal == "0.png [train] and 5.png [val]: equal pixels"
    assert near.startswith("1.png [train] and 4.png [val]: near duplicate (correlation 0.9")
    assert group == 'patient or slide "p" is in train and val'
    divided = split_cells(manifest, "2 folds", 0, prints)
    assert find_leaks(cell_sides(divided, prints), "cells") == []


def test_without_fingerprints_equal_files_and_groups_are_found():
    sides = cell_sides(make("ttvvw", ["", "p", "", "p", "p"], ["x", "y", "x", "", "x"]))
    found = [(leak.reason, leak.first, leak.second) for leak in find_leaks(sides, "cells")]
    assert found == [
        ("equal pixels", 0, 2),
        ("equal pixels", 0, 4),
        ("equal pixels", 2, 4),
        ("same group", 1, 3),
        ("same group", 1, 4),
        ("same group", 3, 4),
    ]


def test_every_copy_on_a_side_is_in_a_leak():
    """Otherwise one copy would stay when the training side of each leak is dropped."""
    manifest = make("tttv", [""] * 4, ["x"] * 4)
    pairs = [(leak.first, leak.second) for leak in find_leaks(cell_sides(manifest), "cells")]
    assert pairs == [(0, 3), (1, 3), (2, 3)]


def smooth_image(seed):
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)


def smear_images(side, files):
    facts = [image_facts(file).fingerprint for file in files]
    return [SideImage(side, file.name, f.digest, "", f) for file, f in zip(files, facts)]


def test_smears_leak_by_pixels_and_likeness(tmp_path):
    a = [tmp_path / f"a{seed}.png" for seed in range(20)]
    for seed, path in enumerate(a):
        smooth_image(seed).save(path)
    smooth_image(3).save(tmp_path / "same.bmp")
    smooth_image(5).save(tmp_path / "jpeg.jpg", quality=80)
    smooth_image(7).resize((100, 75)).save(tmp_path / "small.png")
    smooth_image(99).save(tmp_path / "other.png")
    b = [tmp_path / name for name in ("other.png", "small.png", "jpeg.jpg", "same.bmp")]
    leaks = find_leaks(smear_images("a", a) + smear_images("b", b), "smears")
    assert [(leak.reason, leak.first, leak.second) for leak in leaks] == [
        ("equal pixels", 3, 23),
        ("near duplicate", 5, 22),
        ("near duplicate", 7, 21),
    ]
    assert "of 64 bits differ" in leaks[1].text


def test_policy_decides_about_certain_leaks_only():
    certain = find_leaks(cell_sides(make("tv", ["p", "p"])), "cells")
    with pytest.raises(DataError, match="1 leaks between training and evaluation") as caught:
        apply_leak_policy(certain, "refuse", "set", "ask")
    assert caught.value.problems == ('patient or slide "p" is in t and v',)
    assert apply_leak_policy(certain, "keep", "set", "ask") == list(caught.value.problems)
    near = [replace(certain[0], reason="near duplicate")]
    assert len(apply_leak_policy(near, "refuse", "set", "ask")) == 1


def test_lines_of_a_kind_are_limited():
    manifest = make("t" * 30 + "v", [""] * 31, ["x"] * 31)
    lines = describe_leaks(find_leaks(cell_sides(manifest), "cells"))
    assert len(lines) == 21
    assert lines[-1] == "... and 10 more of this kind"


def test_bccd_trainval_and_test_share_no_image(bccd_source):
    lists = bccd_source / "ImageSets" / "Main"
    trainval, test = (
        [bccd_source / "JPEGImages" / f"{stem}.jpg" for stem in (lists / name).read_text().split()]
        for name in ("trainval.txt", "test.txt")
    )
    assert (len(trainval), len(test)) == (292, 72)
    assert find_leaks(smear_images("a", trainval) + smear_images("b", test), "smears") == []
