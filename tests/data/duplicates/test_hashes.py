import numpy as np
import pytest
from PIL import Image

from wbcnets.data.duplicates.hashes import find_overlaps
from wbcnets.errors import DataError
from wbcnets.io.image_facts import difference_hash


def smooth_image(seed):
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)


def test_equal_pixels_near_duplicates_and_strangers(tmp_path):
    a = [tmp_path / f"a{seed}.png" for seed in range(20)]
    for seed, path in enumerate(a):
        smooth_image(seed).save(path)
    smooth_image(3).save(tmp_path / "same.bmp")
    smooth_image(5).save(tmp_path / "jpeg.jpg", quality=80)
    smooth_image(7).resize((100, 75)).save(tmp_path / "small.png")
    smooth_image(99).save(tmp_path / "other.png")
    b = [tmp_path / name for name in ("other.png", "small.png", "jpeg.jpg", "same.bmp")]
    found = find_overlaps(a, b)
    assert found.exact == [(str(a[3]), str(b[3]))]
    assert [pair[:2] for pair in found.near] == [(str(a[5]), str(b[2])), (str(a[7]), str(b[1]))]
    assert all(distance <= 4 for *_, distance in found.near)
    assert find_overlaps(a, []).exact == []


def test_difference_hash_compares_neighbors():
    row = np.arange(9) % 2 * 200
    image = np.repeat(np.tile(row, (8, 1))[:, :, None], 3, axis=2).astype(np.uint8)
    assert difference_hash(image).tolist() == [0b10101010] * 8


def test_unreadable_images_are_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.png"):
        find_overlaps([tmp_path / "x.png"], [])


def test_bccd_trainval_and_test_share_no_image(bccd_source):
    lists = bccd_source / "ImageSets" / "Main"
    trainval, test = (
        [bccd_source / "JPEGImages" / f"{stem}.jpg" for stem in (lists / name).read_text().split()]
        for name in ("trainval.txt", "test.txt")
    )
    assert (len(trainval), len(test)) == (292, 72)
    found = find_overlaps(trainval, test)
    assert found.exact == []
    assert found.near == []
