"""Facts about image files: every image is decoded once, and the facts are cached by its content."""

import base64
import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from wbcnets.errors import DataError
from wbcnets.io.content_cache import shared_cache
from wbcnets.io.image_files import read_regular_file
from wbcnets.io.images import decode_image, image_size

MAX_IMAGE_BYTES = 256 << 20
THUMBNAIL_SIDE = 48
_NO_THUMBNAIL = np.zeros((0, 0), np.uint8)
_PLACEHOLDER = "<the image>"


@dataclass(frozen=True)
class Fingerprint:
    """The parts of an image by which its duplicates are found.

    Args:
        digest: SHA-256 of the decoded pixels and their size, in hexadecimal.
        hash: ``(8,)`` uint8, the difference hash.
        thumbnail: ``(48, 48)`` uint8 gray; empty for smears, which are compared by hash alone.
    """

    digest: str
    hash: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.uint8]

    @cached_property
    def contrast(self) -> float:
        """Standard deviation of the thumbnail's gray values."""
        return float(self.thumbnail.std())


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image that can be read.

    Args:
        sha256: Of the file's bytes, in hexadecimal.
        width: In px, upright.
        height: In px, upright.
        conversions: What reading does to it, see ``wbcnets.io.images.decode_image``.
        fingerprint: For the search for duplicates.
    """

    sha256: str
    width: int
    height: int
    conversions: tuple[str, ...]
    fingerprint: Fingerprint

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in px."""
        return self.width, self.height

    def without_thumbnail(self) -> "ImageFacts":
        """Returns the facts without the largest, which only cells are compared by."""
        return replace(self, fingerprint=replace(self.fingerprint, thumbnail=_NO_THUMBNAIL))


def image_facts(path: str | os.PathLike[str]) -> ImageFacts:
    """Decodes an image, or recalls the facts of the same content.

    Raises:
        DataError: if it cannot be read; the message names it.
    """
    name = os.fspath(path)
    try:
        content = read_regular_file(name, MAX_IMAGE_BYTES, "the image")
    except DataError:
        if os.path.isfile(name):
            image_size(name)  # the reason in the header of a huge file says more than its size
        raise
    sha256, found = shared_cache().facts(content, "image", _find, _read)
    if isinstance(found, str):
        raise DataError(found.replace(_PLACEHOLDER, name))
    return replace(found, sha256=sha256)


def fingerprint_image(image: npt.NDArray[np.uint8]) -> Fingerprint:
    """Returns the fingerprint of ``(H, W, 3)`` uint8 RGB."""
    digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return Fingerprint(digest, difference_hash(image), thumbnail)


def difference_hash(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB -> ``(8,)`` uint8, the 64-bit difference hash with one byte per row.

    The gray image is shrunk to 9x8, and each bit says whether the right neighbor of a pixel is
    brighter. It survives re-compression, rescaling and small changes of color.
    """
    gray = Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(gray, dtype=np.int16)
    return np.packbits(values[:, 1:] > values[:, :-1], axis=1)[:, 0]


def _find(content: bytes) -> dict[str, Any]:
    try:
        image, conversions = decode_image(content, _PLACEHOLDER)
    except DataError as error:
        return {"error": str(error)}
    fingerprint = fingerprint_image(image)
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "conversions": conversions,
        "digest": fingerprint.digest,
        "hash": fingerprint.hash.tobytes().hex(),
        "thumbnail": base64.b64encode(fingerprint.thumbnail.tobytes()).decode(),
    }


def _read(found: dict[str, Any]) -> ImageFacts | str:
    """Returns the facts that ``_find`` wrote, without the SHA-256, or the text of its error."""
    if "error" in found:
        return str(found["error"])
    pixels = np.frombuffer(base64.b64decode(found["thumbnail"]), dtype=np.uint8)
    fingerprint = Fingerprint(
        found["digest"],
        np.frombuffer(bytes.fromhex(found["hash"]), dtype=np.uint8),
        pixels.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE),
    )
    return ImageFacts("", found["width"], found["height"], tuple(found["conversions"]), fingerprint)
