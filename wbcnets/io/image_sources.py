"""Finds the images to predict on: files, folders, zips, lists and patterns.

    find_image_sources(inputs, leave_out=None) -> list[ImageSource]

serves the classifier and the detector. An ``ImageSource`` has a ``name`` for tables and output
files, a ``path`` for messages, and ``read()``.
"""

import glob
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wbcnets.errors import DataError
from wbcnets.io.archives import repeated_members
from wbcnets.io.image_files import IMAGE_SUFFIXES, find_image_files, is_image_name, natural_order
from wbcnets.io.images import read_image, read_image_bytes
from wbcnets.io.tables import read_lines

MAX_MEMBER_BYTES = 256 << 20
# Damaged members make the decompressors raise any of these
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
    """An image that is not read yet.

    Args:
        path: The image file, or the zip that holds it.
        name: Path relative to the common folder of all inputs, with slashes. It never leads out of
            that folder, so output files can take it. A member of a zip is ``cells.zip/a.png``.
        member: Name in the zip; empty for a file.
    """

    path: Path
    name: str
    member: str = ""

    def read(self) -> npt.NDArray[np.uint8]:
        """Returns the image as (H, W, 3) uint8 RGB.

        Raises:
            DataError: if it cannot be read; the message names the file.
        """
        return _read_member(self.path, self.member) if self.member else read_image(self.path)


def find_image_sources(
    inputs: Sequence[str | os.PathLike[str]], leave_out: Path | None = None
) -> list[ImageSource]:
    """Returns all images of the inputs, each once, in the order of the inputs.

    Args:
        inputs: Image files of any suffix, folders (searched at any depth), zips, text files with
            one path per line (relative to the folder of the list), or patterns such as
            ``slides/*.png`` and ``slides/**/*.jpg``.
        leave_out: A folder whose files do not count, such as the one that is written to.

    Raises:
        DataError: if an input gives no image; all such inputs are listed.
    """
    found: dict[tuple[Path, str], None] = {}
    folders, problems = [], []
    for text in (os.fspath(given) for given in inputs):
        try:
            images = [
                (path, member)
                for path, member in ((_one_spelling(path), name) for path, name in _images_of(text))
                if leave_out is None or not path.is_relative_to(_one_spelling(leave_out))
            ]
            if not images:
                raise DataError(f"{text}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        found.update(dict.fromkeys(images))
        folders += [_one_spelling(Path(text))] if os.path.isdir(text) else []
    if problems or not found:
        raise DataError("inputs without an image; correct their paths", problems)
    base = Path(os.path.commonpath([*(folders or ()), *(path.parent for path, _ in found)]))
    return [ImageSource(path, _table_name(path, member, base), member) for path, member in found]


def _images_of(text: str) -> Iterable[tuple[Path, str]]:
    """Yields the file of each image, and its name in the file if that is a zip."""
    path = Path(text)
    if os.path.isfile(path) and path.suffix.lower() == ".zip":
        return [(path, member) for member in _members(path)]
    if os.path.isdir(path):
        files = find_image_files(path, outside_links=True)
    elif os.path.isfile(path):
        files = _listed(path) if path.suffix.lower() == ".txt" else [path]
    else:
        matches = sorted(glob.glob(text, recursive=True), key=natural_order)
        if not matches:
            raise DataError(f"{text}: no such file or folder, and no file matches it as a pattern")
        named = (Path(match) for match in matches)
        files = [file for file in named if is_image_name(file.name) and file.is_file()]
    return [(file, "") for file in files]


def _table_name(path: Path, member: str, base: Path) -> str:
    return PurePosixPath(path.relative_to(base).as_posix(), _safe_name(member)).as_posix()


def _safe_name(member: str) -> PurePosixPath:
    """Returns the name of a member without the parts that lead out of its folder."""
    return PurePosixPath(*(p for p in PurePosixPath(member).parts if p not in ("..", "/")))


def _one_spelling(path: Path) -> Path:
    """Returns an absolute path without "..", behind which a link would lead elsewhere."""
    path = path.absolute()
    if ".." not in path.parts:
        return path
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def _listed(path: Path) -> list[Path]:
    return [path.parent / name for name in read_lines(path, "the list of files")]


def _members(path: Path) -> list[str]:
    """Returns the names of the images in a zip, which are never unpacked onto the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error})") from error
    images = sorted(filter(is_image_name, names), key=natural_order)
    problems = repeated_members(_safe_name(name).as_posix() for name in images)
    if problems:
        raise DataError(f"{path}: holds images of one name", problems)
    return images


def _read_member(path: Path, member: str) -> npt.NDArray[np.uint8]:
    name = f"{path}:{member}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            content = stream.read(MAX_MEMBER_BYTES + 1)
    except (*_DAMAGE, KeyError) as error:
        raise DataError(f"{name}: cannot be read from the zip ({error})") from error
    if len(content) > MAX_MEMBER_BYTES:
        raise DataError(f"{name}: exceeds the limit of {MAX_MEMBER_BYTES:,} bytes for an image")
    return read_image_bytes(content, name)
