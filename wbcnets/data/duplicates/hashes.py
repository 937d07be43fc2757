"""Images that stand in two splits: equal pixels, and near duplicates by a perceptual hash."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wbcnets.errors import DataError
from wbcnets.io.image_facts import ImageFacts, facts_or_reasons

MAX_DISTANCE = 4
_ROWS_AT_A_TIME = 256
_BITS_SET = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


@dataclass
class Overlaps:
    """Pairs of images that two sets share.

    Args:
        exact: `(path in a, path in b)` with equal pixels.
        near: `(path in a, path in b, Hamming distance)` of images that only look alike.
    """

    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str, int]] = field(default_factory=list)


def find_overlaps(
    paths_a: Sequence[str | os.PathLike[str]],
    paths_b: Sequence[str | os.PathLike[str]],
    max_distance: int = MAX_DISTANCE,
) -> Overlaps:
    """Finds the images that two sets share.

    Args:
        paths_a: Images of the first set.
        paths_b: Images of the second set.
        max_distance: Up to how many of the 64 bits near duplicates may differ in. A near duplicate
            is a suspicion: evenly stained fields without a leukocyte can look alike.

    Returns:
        Pairs of equal decoded pixels, and pairs of similar hashes that are not equal, each in the
        order of `paths_a`.

    Raises:
        DataError: An image cannot be read.
    """
    digests_a, hashes_a = fingerprint(paths_a)
    digests_b, hashes_b = fingerprint(paths_b)
    overlaps = Overlaps()
    for first, second, distance in similar_pairs(hashes_a, hashes_b, max_distance):
        pair = (os.fspath(paths_a[first]), os.fspath(paths_b[second]))
        if digests_a[first] == digests_b[second]:
            overlaps.exact.append(pair)
        else:
            overlaps.near.append((*pair, distance))
    return overlaps


def similar_pairs(
    hashes_a: npt.NDArray[np.uint8],
    hashes_b: npt.NDArray[np.uint8],
    max_distance: int = MAX_DISTANCE,
) -> Iterator[tuple[int, int, int]]:
    """Compares every hash of one set with every hash of another: 20,000 by 20,000 take seconds.

    Args:
        hashes_a: `(A, 8)` uint8.
        hashes_b: `(B, 8)` uint8.
        max_distance: Up to how many bits may differ.

    Yields:
        `(index in a, index in b, Hamming distance)`.
    """
    for start in range(0, len(hashes_a), _ROWS_AT_A_TIME):
        distances = _hamming(hashes_a[start : start + _ROWS_AT_A_TIME], hashes_b)
        for row, column in np.argwhere(distances <= max_distance):
            yield start + int(row), int(column), int(distances[row, column])


def _hamming(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`(A, 8)` and `(B, 8)` -> `(A, B)` distances."""
    # numpy has it from version 2 on
    if hasattr(np, "bitwise_count"):
        words_a = np.ascontiguousarray(a).view(np.uint64)[:, 0]
        words_b = np.ascontiguousarray(b).view(np.uint64)[:, 0]
        counts: npt.NDArray[np.uint8] = np.bitwise_count(words_a[:, None] ^ words_b[None])
        return counts
    return _BITS_SET[a[:, None] ^ b[None]].sum(axis=2, dtype=np.uint8)


def fingerprint(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Hashes images.

    Returns:
        The SHA-256 of the decoded pixels and their size, and the difference hashes `(N, 8)` uint8.

    Raises:
        DataError: Images cannot be read; all are listed.
    """
    found = facts_or_reasons(paths)
    problems = [reason for reason in found if isinstance(reason, str)]
    if problems:
        raise DataError(f"{len(problems)} images cannot be read", problems)
    facts = [item for item in found if isinstance(item, ImageFacts)]
    bits = np.array([item.hash for item in facts], dtype=np.uint8).reshape(-1, 8)
    return [item.digest for item in facts], bits
