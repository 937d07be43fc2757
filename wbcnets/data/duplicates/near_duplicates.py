"""The same cell photographed or cut out twice: found by hash, confirmed by shifted correlation.

A difference hash alone tells little of cell images, which all show a disc on a plain ground: the
same cell, cut out a few pixels further left, differs in up to 15 of 64 bits, and different cells do
in 7. So the hash only proposes pairs, generously. A pair is confirmed where the gray values of the
two images, at 48x48 px, correlate at some shift of up to an eighth of the side. On PBC the pairs so
confirmed reach 0.96 to 1.00, and the best of the others stay below 0.93. Not found are copies that
were turned or mirrored, and those whose hashes differ in more than 16 bits: up to 20 bits PBC has
two more pairs, at fourteen times the work. Crops that are centerd on two neighboring cells of one
field overlap, and are found only while the shift is small.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wbcnets.data.duplicates.hashes import similar_pairs
from wbcnets.io.image_facts import difference_hash, pixel_digest

CANDIDATE_BITS = 16
MIN_CORRELATION = 0.95
THUMBNAIL_SIDE = 48
_MAX_SHIFT = THUMBNAIL_SIDE // 8
# Gray levels below which a thumbnail is flat and correlation means nothing
_FLAT = 1.0


@dataclass(frozen=True)
class Fingerprint:
    """What duplicates of one image are found by.

    Args:
        digest: SHA-256 of the decoded pixels and their size.
        hash: `(8,)` uint8, the difference hash.
        thumbnail: `(48, 48)` uint8 gray.
        contrast: Standard deviation of the thumbnail's gray values.
    """

    digest: str
    hash: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.uint8]
    contrast: float

    def as_json(self) -> dict[str, Any]:
        """All of it, for `from_json`."""
        return {
            "digest": self.digest,
            "hash": self.hash.tobytes().hex(),
            "thumbnail": base64.b64encode(self.thumbnail.tobytes()).decode(),
            "contrast": self.contrast,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Fingerprint":
        """What `as_json` gave."""
        thumbnail = np.frombuffer(base64.b64decode(found["thumbnail"]), dtype=np.uint8)
        return cls(
            found["digest"],
            np.frombuffer(bytes.fromhex(found["hash"]), dtype=np.uint8),
            thumbnail.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE),
            found["contrast"],
        )


def fingerprint_image(image: npt.NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of `(H, W, 3)` uint8 RGB."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return Fingerprint(
        pixel_digest(image), difference_hash(image), thumbnail, float(thumbnail.std())
    )


def duplicate_pairs(
    fingerprints: Sequence[Fingerprint], min_correlation: float = MIN_CORRELATION
) -> Iterator[tuple[int, int, float]]:
    """Finds the images that show the same cell.

    Args:
        fingerprints: One per image.
        min_correlation: From which correlation on a pair is taken for the same cell.

    Yields:
        `(first index, second index, correlation)` with first < second; the correlation is exactly
        1.0 where the pixels are equal, and below 1 otherwise.
    """
    if not fingerprints:
        return
    hashes = np.stack([entry.hash for entry in fingerprints])
    for first, second, _ in similar_pairs(hashes, hashes, CANDIDATE_BITS):
        if first >= second:
            continue
        a, b = fingerprints[first], fingerprints[second]
        if a.digest == b.digest:
            yield first, second, 1.0
            continue
        correlation = shifted_correlation(a, b)
        if correlation >= min_correlation:
            yield first, second, min(correlation, 0.9999)


def shifted_correlation(a: Fingerprint, b: Fingerprint) -> float:
    """The largest correlation of two thumbnails over small shifts, in [-1, 1].

    Flat thumbnails, which have none, give 1 where they are about as bright, else 0.
    """
    if min(a.contrast, b.contrast) < _FLAT:
        both = max(a.contrast, b.contrast) < _FLAT
        brightness = float(a.thumbnail.mean()) - float(b.thumbnail.mean())
        return float(both and abs(brightness) < 2 * _FLAT)
    inner = b.thumbnail[_MAX_SHIFT:-_MAX_SHIFT, _MAX_SHIFT:-_MAX_SHIFT]
    best = float(cv2.matchTemplate(a.thumbnail, inner, cv2.TM_CCOEFF_NORMED).max())
    # The inner part may be flat where the whole is not; OpenCV's quotient then means nothing
    if best >= MIN_CORRELATION and inner.std() < _FLAT:
        return 0.0
    return min(best, 1.0)
