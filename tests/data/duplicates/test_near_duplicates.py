import time

import numpy as np

from wbcnets.data.duplicates.near_duplicates import duplicate_pairs, similar_pairs
from wbcnets.io.image_facts import difference_hash, fingerprint_image


def test_difference_hash_compares_neighbors():
    row = np.arange(9) % 2 * 200
    image = np.repeat(np.tile(row, (8, 1))[:, :, None], 3, axis=2).astype(np.uint8)
    assert difference_hash(image).tolist() == [0b10101010] * 8


def test_flat_images_are_alike_only_if_equally_bright():
    flat = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (100, 101, 180)]
    pairs = [(a, b) for a, b, _ in duplicate_pairs([fingerprint_image(image) for image in flat])]
    assert pairs == [(0, 1)]


def test_distances_of_hashes_bit_by_bit():
    generator = np.random.default_rng(3)
    a = generator.integers(0, 256, (30, 8), dtype=np.uint8)
    b = a[:20] ^ generator.integers(0, 2, (20, 8), dtype=np.uint8)
    expected = {
        (i, j, sum(bin(x ^ y).count("1") for x, y in zip(a[i].tolist(), b[j].tolist())))
        for i in range(30)
        for j in range(20)
    }
    assert set(similar_pairs(a, b, 64)) == expected
    assert set(similar_pairs(a, b, 6)) == {entry for entry in expected if entry[2] <= 6}


def test_twenty_thousand_hashes_take_seconds():
    hashes = np.random.default_rng(0).integers(0, 256, (20_000, 8), dtype=np.uint8)
    start = time.perf_counter()
    pairs = sum(first < second for first, second, _ in similar_pairs(hashes, hashes, 4))
    assert time.perf_counter() - start < 60
    assert pairs == 0
