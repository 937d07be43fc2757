"""Reads images: one reader for training, evaluation, prediction and every check.

Pillow decodes, restricted to the formats that microscopes and datasets use. Other readers silently
clip 16-bit images to white, drop transparency, return the first of many pages, or return a broken
file as black pixels. This one converts such images correctly or refuses them by name.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from wbcnets.errors import DataError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 50_000_000
RgbImage = npt.NDArray[np.uint8]  # (H, W, 3)
ImageLike = str | os.PathLike[str] | Image.Image | RgbImage
NamedReader = tuple[str, Callable[[], RgbImage]]
_STREAM = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")
_TURNED = frozenset({5, 6, 7, 8})
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# Values of 16 bits that fit into these use less than a quarter of the range
_LEAST_BITS = 14
# Tags of TIFF that state the largest value
_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 281, 341
_IMAGEJ_MAXIMUM = re.compile(r"^ImageJ=(?s:.)*^max=([0-9]+(?:\.[0-9]*)?)\s*$", re.MULTILINE)
_MODE_NAMES = {"L": "gray", "LA": "gray", "1": "black and white", "P": "palette", "RGBA": ""}


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads an image file as upright 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white, 16-bit gray values are scaled
    by their declared bit depth, and every other color mode is converted. A depth is never guessed:
    guesses from single images would change their brightness relative to each other.

    Args:
        path: A JPEG, PNG, TIFF, BMP or WebP file; the content decides, not the suffix.
        max_pixels: Larger images are refused from their header, before anything is decoded.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        DataError: if the file is missing, damaged, too large, of another format, animated or of
            several pages, holds floating-point values, or holds 10 to 14 bits in 16 without
            declaring it. The message names the path.
    """
    with _open(path, max_pixels) as image:
        _verify_checksums(image, path, path)
        return image_to_rgb(image, path)


def read_image_bytes(
    content: bytes, name: str, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Reads an image in memory, such as a member of an archive, as ``read_image`` does.

    Args:
        content: The bytes of a JPEG, PNG, TIFF, BMP or WebP file.
        name: Name of the image in messages.
        max_pixels: Larger images are refused from their header.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        DataError: if it cannot be read; the message has the name.
    """
    return decode_image(content, name, max_pixels)[0]


def decode_image(
    content: bytes, name: str, max_pixels: int = MAX_PIXELS
) -> tuple[RgbImage, tuple[str, ...]]:
    """Reads an image as ``read_image_bytes`` does, and tells what was done to it.

    Args:
        content: The bytes of a JPEG, PNG, TIFF, BMP or WebP file.
        name: Name of the image in messages.
        max_pixels: Larger images are refused from their header.

    Returns:
        ``(H, W, 3)`` uint8 RGB, and any of "turned by EXIF", "16-bit gray scaled", "gray made RGB",
        "CMYK made RGB", "palette made RGB", "transparency put on white" and "<mode> made RGB", or
        nothing for plain RGB.

    Raises:
        DataError: if it cannot be read; the message has the name.
    """
    with _open_stream(io.BytesIO(content), name, max_pixels) as image:
        with _named_damage(name):
            conversions = _conversions(image)
        _verify_checksums(image, io.BytesIO(content), name)
        return image_to_rgb(image, name), conversions


def image_size(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads the size of an image, after EXIF orientation, from its header.

    Args:
        path: A JPEG, PNG, TIFF, BMP or WebP file.
        max_pixels: Larger images are refused.

    Returns:
        ``(width, height)`` in px.

    Raises:
        DataError: if the header cannot be read, or ``read_image`` would refuse the image.
    """
    with _open(path, max_pixels) as image, _named_damage(path):
        width, height = image.size
        # Pillow turns the size of a TIFF itself when it opens the file
        if image.format == "TIFF" or not _has_readable_exif(image):
            return width, height
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return (height, width) if turned else (width, height)


def _open(path: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    """Opens a file, or refuses it by its header."""
    # A folder, a pipe or a device must not be opened: reading a pipe would wait forever
    # These tell False for a name that is too long, or whose folder cannot be entered
    if not os.path.isfile(path):
        reason = "is not a file" if os.path.lexists(path) else "does not exist"
        raise DataError(f"{os.fspath(path)}: the image {reason} - correct the path")
    return _open_stream(path, path, max_pixels)


def _open_stream(
    stream: str | os.PathLike[str] | io.BytesIO, path: str | os.PathLike[str], max_pixels: int
) -> Image.Image:
    with _named_damage(path):
        image = Image.open(stream, formats=FORMATS)
        try:
            _refuse_by_header(image, path, max_pixels)
        except Exception:
            image.close()
            raise
    return image


@contextmanager
def _named_damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns any error into a DataError: damaged bytes make Pillow raise errors of every type."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = str(error).replace(os.fspath(path), "the file") or type(error).__name__
        reason = _STREAM.sub("the file", reason)
        raise DataError(
            f"{os.fspath(path)}: the image cannot be read ({type(error).__name__}: {reason}) - "
            f"expected an undamaged {', '.join(FORMATS)} file"
        ) from error


def _verify_checksums(
    image: Image.Image,
    stream: str | os.PathLike[str] | io.BytesIO,
    path: str | os.PathLike[str],
) -> None:
    """Compares a PNG with its checksums, which Pillow ignores when it decodes pixels."""
    if image.format != "PNG":
        return
    with _named_damage(path), Image.open(stream, formats=("PNG",)) as copy:
        copy.verify()


def image_to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Decodes an opened Pillow image as ``read_image`` does, (H, W, 3) uint8.

    Args:
        image: Opened by Pillow, or made in memory.
        path: Names the image in messages.

    Raises:
        DataError: if it cannot be decoded, or holds values of an unknown range.
    """
    with _named_damage(path):
        deep = _is_deep(image)  # only known before the pixels are decoded
        image.load()
        upright = ImageOps.exif_transpose(image) if _has_readable_exif(image) else image
        # The upright copy no longer knows its file
        bits = _gray_bits(image)
        if deep:
            _refuse_unknown_depth(image, bits, path)
        return _to_rgb(upright, bits, path)


def named_readers(images: ImageLike | Sequence[ImageLike]) -> list[NamedReader]:
    """Returns a name for each image, and a function that reads it.

    The functions return (H, W, 3) uint8 RGB, or raise ``DataError``.

    Args:
        images: One or a list of paths, Pillow images or (H, W, 3) uint8 RGB arrays.
    """
    if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)):
        images = [images]
    return [_named_reader(image, f"images[{index}]") for index, image in enumerate(images)]


def _named_reader(image: ImageLike, name: str) -> NamedReader:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image), partial(read_image, image)
    if isinstance(image, Image.Image):
        return name, partial(image_to_rgb, image, name)
    return name, partial(_check_array, image, name)


def _check_array(image: RgbImage, name: str) -> RgbImage:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f"{name}: is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    return image


def _refuse_by_header(image: Image.Image, path: str | os.PathLike[str], max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{os.fspath(path)}: {width}x{height} = {width * height:,} pixels exceed the limit of "
            f"{max_pixels:,} - cut the image into tiles, or raise max_pixels"
        )
    # MPO is a camera JPEG with a preview behind it: its first picture is the image
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise DataError(
            f"{os.fspath(path)}: holds {pages} pages or frames - save one of them as a file"
        )


def _has_readable_exif(image: Image.Image) -> bool:
    """Tells whether EXIF counts: a PNG may have it behind its pixels, where the header ends."""
    return image.format != "PNG" or "exif" in image.info


def _gray_bits(image: Image.Image) -> int | None:
    """Returns the declared bit depth of a gray image of more than 8 bits, else None."""
    if image.mode in _SIXTEEN_BIT_MODES:
        tags = getattr(image, "tag_v2", {})
        bits = int(tags.get(ExifTags.Base.BitsPerSample, (16,))[0])
        return bits if bits != 16 else _bits_of_maximum(tags)
    # Pillow before 11 opens 16-bit PNG files in the mode of 32-bit integers
    return 16 if image.mode == "I" and image.format == "PNG" else None


def _bits_of_maximum(tags: Mapping[int, Any]) -> int:
    """Returns the depth that the largest value of a 16-bit TIFF stands for, 16 by default.

    Only the largest values of whole numbers of bits count: others are the limits of a display.
    """
    display = _IMAGEJ_MAXIMUM.search(str(tags.get(ExifTags.Base.ImageDescription, "")))
    stated = [tags.get(_S_MAX_SAMPLE_VALUE), tags.get(_MAX_SAMPLE_VALUE), display and display[1]]
    for value in stated:
        numbers = value if isinstance(value, tuple) else (value,)
        largest = {float(number) for number in numbers if number is not None}
        for bits in range(9, 16):
            if largest == {2.0**bits - 1}:
                return bits
    return 16


def _is_deep(image: Image.Image) -> bool:
    """Tells whether an image that is not decoded yet has 16 bits per sample, in gray or color."""
    tiles = getattr(image, "tile", ())  # images made in memory have none
    return _gray_bits(image) is not None or any(";16" in str(tile) for tile in tiles)


def _refuse_unknown_depth(
    image: Image.Image, gray_bits: int | None, path: str | os.PathLike[str]
) -> None:
    """Refuses 16-bit values that fill another range: they would come out nearly black, or cut."""
    bands = image.getextrema()
    colors = [bands] if gray_bits is not None else list(bands)[: 1 if image.mode == "LA" else 3]
    largest = int(max(band[1] for band in colors))  # type: ignore[index]
    if gray_bits is None:  # Pillow keeps the upper 8 bits of a color
        largest = 256 * largest + 255
    bits = gray_bits or 16
    if largest >= 2**bits:
        raise DataError(
            f"{os.fspath(path)}: holds values up to {largest:,}, but declares {bits} bits - "
            "correct the tags of the TIFF file"
        )
    if bits == 16 and 0 < largest < 2**_LEAST_BITS:
        likely = next(depth for depth in (8, 10, 12, _LEAST_BITS) if largest < 2**depth)
        hint = f", or declare {likely} bits by the TIFF tag SMaxSampleValue" if gray_bits else ""
        raise DataError(
            f"{os.fspath(path)}: its 16-bit values reach only {largest:,} of 65,535, which looks "
            f"like {likely} bits and would be nearly black - multiply them by {2 ** (16 - likely)}"
            f"{hint}"
        )


def _to_rgb(
    image: Image.Image, gray_bits: int | None, path: str | os.PathLike[str]
) -> npt.NDArray[np.uint8]:
    if image.mode == "F":
        raise DataError(
            f"{os.fspath(path)}: holds floating-point values, whose range is unknown - "
            "convert it to 8 or 16 bits first"
        )
    if gray_bits is not None:
        return _scale_gray(image, gray_bits)
    if image.mode == "I":
        raise DataError(
            f"{os.fspath(path)}: holds 32-bit integers, whose range is unknown - "
            "convert it to 8 or 16 bits first"
        )
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layered)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _scale_gray(image: Image.Image, bits: int) -> npt.NDArray[np.uint8]:
    values = np.asarray(image, dtype=np.float32) * (255.0 / (2**bits - 1))
    gray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _conversions(image: Image.Image) -> tuple[str, ...]:
    """Returns what reading does to an opened image beyond decoding it, see ``decode_image``."""
    done = []
    if _has_readable_exif(image) and image.getexif().get(ExifTags.Base.Orientation, 1) > 1:
        done.append("turned by EXIF")
    if _gray_bits(image) is not None:
        done.append("16-bit gray scaled")
    elif image.mode != "RGB":
        kind = _MODE_NAMES.get(image.mode, image.mode)
        done += [f"{kind} made RGB"] if kind else []
    if image.has_transparency_data:
        done.append("transparency put on white")
    return tuple(done)
