"""Finds images that look alike: by hash, and for cells confirmed by shifted correlation.

A difference hash alone tells little about images of cells, which all show a disc on a plain ground:
the same cell, cut out a few pixels further left, differs in up to 15 of 64 bits, and different
cells differ in 7. So the hash only proposes pairs, generously. A pair is confirmed if the gray
values of the two images, at 48x48 px, correlate at some shift of up to an eighth of the side. On
PBC the confirmed pairs reach 0.96 to 1.00, and the best of the others stay below 0.93.

Not found are copies that were turned or mirrored, and copies whose hashes differ in more than 16
bits: up to 20 bits PBC has two more pairs, at fourteen times the work. Crops around two neighboring
cells of one field overlap, and are found only while the shift is small.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from wbcnets.io.image_facts import THUMBNAIL_SIDE, Fingerprint

CANDIDATE_BITS = 16
MIN_CORRELATION = 0.95
_MAX_SHIFT = THUMBNAIL_SIDE // 8
# Below this contrast (gray levels) a thumbnail is flat and correlation means nothing
_FLAT = 1.0
_ROWS_AT_A_TIME = 256
_BITS_SET = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def duplicate_pairs(
    fingerprints: Sequence[Fingerprint], others: Sequence[Fingerprint] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Finds the images that show the same cell.

    Args:
        fingerprints: One per image.
        others: One per image of another set; by default the images are compared with each other.

    Yields:
        ``(first index, second index, correlation)``, with first < second unless there are
        ``others``. The correlation is exactly 1.0 for equal pixels, and below 1 otherwise.
    """
    seconds = fingerprints if others is None else others
    hashes = stack_hashes(fingerprints), stack_hashes(seconds)
    for first, second, _ in similar_pairs(*hashes, CANDIDATE_BITS):
        if others is None and first >= second:
            continue
        a, b = fingerprints[first], seconds[second]
        if a.digest == b.digest:
            yield first, second, 1.0
            continue
        correlation = shifted_correlation(a, b)
        if correlation >= MIN_CORRELATION:
            yield first, second, min(correlation, 0.9999)


def stack_hashes(fingerprints: Sequence[Fingerprint]) -> npt.NDArray[np.uint8]:
    """Returns the hashes of N fingerprints, ``(N, 8)`` uint8."""
    return np.array([entry.hash for entry in fingerprints], dtype=np.uint8).reshape(-1, 8)


def similar_pairs(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], max_distance: int
) -> Iterator[tuple[int, int, int]]:
    """Compares every hash of one set with every hash of another: 20,000 by 20,000 take seconds.

    Args:
        a: ``(A, 8)`` uint8.
        b: ``(B, 8)`` uint8.
        max_distance: The most bits of 64 that may differ.

    Yields:
        ``(index in a, index in b, Hamming distance)``.
    """
    for start in range(0, len(a), _ROWS_AT_A_TIME):
        distances = _hamming(a[start : start + _ROWS_AT_A_TIME], b)
        for row, column in np.argwhere(distances <= max_distance):
            yield start + int(row), int(column), int(distances[row, column])


def _hamming(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``(A, 8)`` and ``(B, 8)`` -> ``(A, B)`` distances."""
    # NumPy has it from version 2 on
    if hasattr(np, "bitwise_count"):
        words_a = np.ascontiguousarray(a).view(np.uint64)[:, 0]
        words_b = np.ascontiguousarray(b).view(np.uint64)[:, 0]
        counts: npt.NDArray[np.uint8] = np.bitwise_count(words_a[:, None] ^ words_b[None])
        return counts
    return _BITS_SET[a[:, None] ^ b[None]].sum(axis=2, dtype=np.uint8)


def shifted_correlation(a: Fingerprint, b: Fingerprint) -> float:
    """Returns the largest correlation of two thumbnails over small shifts, in [-1, 1].

    Flat thumbnails have no correlation: they give 1 if they are about as bright, else 0.
    """
    if min(a.contrast, b.contrast) < _FLAT:
        both = max(a.contrast, b.contrast) < _FLAT
        brightness = float(a.thumbnail.mean()) - float(b.thumbnail.mean())
        return float(both and abs(brightness) < 2 * _FLAT)
    inner = b.thumbnail[_MAX_SHIFT:-_MAX_SHIFT, _MAX_SHIFT:-_MAX_SHIFT]
    best = float(cv2.matchTemplate(a.thumbnail, inner, cv2.TM_CCOEFF_NORMED).max())
    # The inner part may be flat although the whole is not; OpenCV's quotient then means nothing
    if best >= MIN_CORRELATION and inner.std() < _FLAT:
        return 0.0
    return min(best, 1.0)
