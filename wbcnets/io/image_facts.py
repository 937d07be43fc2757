"""What every check needs to know of an image: it is decoded once, the answer is kept by content."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from wbcnets.errors import DataError
from wbcnets.io.content_cache import shared_cache
from wbcnets.io.images import MAX_PIXELS, image_conversions, image_size, read_image

# To be counted up when readers or hashes change
_KIND = f"image 3 {MAX_PIXELS}"
_THREADS = 4
# From here on a person would want to see how far it is
_MANY = 2000
_PLACEHOLDER = "<the image>"


@dataclass(frozen=True)
class ImageFacts:
    """An image that can be read.

    Args:
        width: In px, upright.
        height: In px, upright.
        digest: SHA-256 of the decoded pixels and their size.
        hash: `(8,)` uint8, the difference hash.
        conversions: What reading does to it, see `wbcnets.io.images.image_conversions`.
    """

    width: int
    height: int
    digest: str
    hash: npt.NDArray[np.uint8]
    conversions: tuple[str, ...]


def image_facts(path: str | os.PathLike[str]) -> ImageFacts:
    """Decodes an image, or recalls what was found when its content was decoded before.

    Raises:
        DataError: It cannot be read; the message names it.
    """
    file = Path(path)
    try:
        if not file.is_file():
            image_size(file)  # refuses it by name
        found = shared_cache().facts(file, _KIND, _find)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    if "error" in found:
        raise DataError(str(found["error"]).replace(_PLACEHOLDER, os.fspath(file)))
    return ImageFacts(
        found["width"],
        found["height"],
        found["digest"],
        np.frombuffer(bytes.fromhex(found["hash"]), dtype=np.uint8),
        tuple(found["conversions"]),
    )


def facts_or_reasons(paths: Iterable[str | os.PathLike[str]]) -> list[ImageFacts | str]:
    """The facts of many images in a few threads; a text says why one cannot be read."""

    def find(path: str | os.PathLike[str]) -> ImageFacts | str:
        try:
            return image_facts(path)
        except DataError as error:
            return str(error)

    files = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(find, files)
        few = len(files) < _MANY
        return list(tqdm(found, "checking images", len(files), unit="image", disable=few))


def difference_hash(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 64-bit difference hash: `(H, W, 3)` uint8 RGB -> `(8,)` uint8, one byte a row.

    The gray image is shrunk to 9x8, and each bit says whether a pixel's right neighbor is
    brighter. It survives re-compression, rescaling and small changes of color.
    """
    gray = Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(gray, dtype=np.int16)
    return np.packbits(values[:, 1:] > values[:, :-1], axis=1)[:, 0]


def pixel_digest(image: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of decoded pixels and their size, in hexadecimal."""
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


def _find(path: Path) -> dict[str, Any]:
    try:
        image = read_image(path)
        conversions = image_conversions(path)
    except DataError as error:
        return {"error": str(error).replace(os.fspath(path), _PLACEHOLDER)}
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "digest": pixel_digest(image),
        "hash": difference_hash(image).tobytes().hex(),
        "conversions": conversions,
    }
