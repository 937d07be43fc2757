"""Where the images to classify are: files, folders, zips, lists and patterns."""

import glob
import lzma
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wbcnets.errors import DataError
from wbcnets.io.images import IGNORED_FOLDERS, SUFFIXES, read_image, read_image_bytes

MAX_MEMBER_BYTES = 256 << 20
# What damaged members make the decompressors raise
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class ImageSource:
    """One image that is still to be read.

    Attributes:
        name: For tables and messages.
        read: Reads it as (H, W, 3) uint8, or raises DataError.
    """

    name: str
    read: Callable[[], npt.NDArray[np.uint8]]


def find_sources(inputs: Sequence[str]) -> list[ImageSource]:
    """All images of the inputs, each once, in the order of the inputs and then of their names.

    Args:
        inputs: Image files, folders (searched through), zips, text files with a path a line
            (relative ones from the list's folder), or patterns such as ``"slides/*.png"``.

    Raises:
        DataError: An input is missing, is no readable zip, or there is no image at all.
    """
    sources: dict[str, ImageSource] = {}
    for text in inputs:
        for source in _sources_of(text):
            sources.setdefault(source.name, source)
    if not sources:
        raise DataError(
            f"no images in {', '.join(inputs)}; looked for {', '.join(sorted(SUFFIXES))}"
        )
    return list(sources.values())


def _sources_of(text: str) -> list[ImageSource]:
    path = Path(text)
    if path.is_dir():
        return [_file(file) for file in sorted(path.rglob("*")) if _is_image(file)]
    if path.is_file():
        if path.suffix.lower() == ".zip":
            return _members(path)
        return _listed(path) if path.suffix.lower() == ".txt" else [_file(path)]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise DataError(f"{text}: no such file or folder, and no file fits it as a pattern")
    return [_file(Path(name)) for name in found if _is_image(Path(name))]


def _is_image(path: Path) -> bool:
    return path.is_file() and _is_image_name(path.parts[-1:])


def _is_image_name(parts: Sequence[str]) -> bool:
    """Whether it ends as an image's does, and is neither hidden nor in a folder of the system's."""
    if not parts or parts[-1].startswith(".") or IGNORED_FOLDERS & set(parts):
        return False
    return PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES


def _file(path: Path) -> ImageSource:
    return ImageSource(str(path), lambda: read_image(path))


def _listed(path: Path) -> list[ImageSource]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no readable list ({error})") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [_file(path.parent / name) for name in names]


def _members(path: Path) -> list[ImageSource]:
    """The images in a zip, which are read from memory and never unpacked onto the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable zip ({error})") from error
    images = [info for info in members if _is_image_name(PurePosixPath(info.filename).parts)]
    return [_member(path, info) for info in sorted(images, key=lambda info: info.filename)]


def _member(path: Path, info: zipfile.ZipInfo) -> ImageSource:
    name = f"{path}:{info.filename}"

    def read() -> npt.NDArray[np.uint8]:
        if info.file_size > MAX_MEMBER_BYTES:
            raise DataError(f"{name}: {info.file_size} bytes are too many for an image")
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
                content = stream.read(MAX_MEMBER_BYTES + 1)
        except _DAMAGE as error:
            raise DataError(f"{name}: cannot be read from the zip ({error})") from error
        return read_image_bytes(content, name)

    return ImageSource(name, read)
