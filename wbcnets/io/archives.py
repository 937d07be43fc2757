"""Zip files from elsewhere, unpacked safely."""

import contextlib
import logging
import os
import posixpath
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from wbcnets.errors import DataError

logger = logging.getLogger(__name__)

MAX_ZIP_BYTES = 8 << 30
MAX_ZIP_MEMBERS = 200_000
MAX_ZIP_RATIO = 200


@contextlib.contextmanager
def unpacked(source: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields ``unpack`` of a source into a temporary folder, which is removed afterwards.

    Raises:
        DataError: if there is no such folder or zip file, or the zip file is unsafe.
    """
    with scratch_folder(source) as folder:
        yield unpack(Path(source), folder)


@contextlib.contextmanager
def scratch_folder(source: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder for the contents of a source, which is removed afterwards.

    Errors name the source instead of the folder, which is gone when somebody reads them.
    """
    with tempfile.TemporaryDirectory(prefix="wbcnets-") as folder:
        try:
            yield Path(folder)
        except DataError as error:
            name = os.fspath(source)
            error.args = tuple(str(text).replace(folder, name) for text in error.args)
            error.problems = tuple(text.replace(folder, name) for text in error.problems)
            raise


def unpack(source: Path, target: Path) -> Path:
    """Returns a folder as it is, or unpacks a zip file into ``target`` and returns that.

    Raises:
        DataError: if there is no such folder or zip file, or the zip file is unsafe.
    """
    if os.path.isdir(source):
        return source
    # Only a regular file is opened: reading a pipe would wait forever
    if not (os.path.isfile(source) and zipfile.is_zipfile(source)):
        reason = (
            "is neither a folder nor a zip file" if os.path.exists(source) else "does not exist"
        )
        raise DataError(f"{source}: the source {reason} - correct the path")
    extract_zip(source, target)
    return target


def extract_zip(archive: Path, target: Path) -> None:
    """Unpacks a zip file; nothing is written outside the target folder.

    Raises:
        DataError: if ``check_zip_members`` refuses it, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if not member.is_dir()]
            check_zip_members(archive, members)
            for member in members:
                destination = target / member.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                # Two names may be one on this file system; the second must not replace the first
                with source.open(member) as stream, destination.open("xb") as out:
                    shutil.copyfileobj(stream, out)
    except FileExistsError as error:
        raise DataError(
            f'{archive}: not unpacked - "{member.filename}" is the name of another member on this '
            "file system; rename one of the two"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: damaged or unsupported zip file ({error})") from error
    except OSError as error:  # a full disk, or a name that is too long for it
        raise DataError(f"{archive}: cannot be unpacked ({error})") from error


def check_zip_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Checks a zip file by its table of contents, before anything is unpacked.

    Raises:
        DataError: if a member is encrypted, a link, has an absolute path or one with ``..``, is
            compressed too well to be an image, or has the path of another one; or if there are too
            many members or bytes.
    """
    problems = repeated_members(posixpath.normpath(member.filename) for member in members)
    for member in members:
        parts = PurePosixPath(member.filename).parts
        if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
            problems.append(f'"{member.filename}" leads out of the folder')
        if stat.S_ISLNK(member.external_attr >> 16):
            problems.append(f'"{member.filename}" is a symbolic link')
        if member.flag_bits & 1:
            problems.append(f'"{member.filename}" is encrypted')
        if member.file_size > MAX_ZIP_RATIO * max(member.compress_size, 1024):
            problems.append(f'"{member.filename}" unpacks to {member.file_size:,} bytes')
    total = sum(member.file_size for member in members)
    if len(members) > MAX_ZIP_MEMBERS or total > MAX_ZIP_BYTES:
        problems.append(f"{len(members)} files of {total:,} bytes exceed the limits")
    if problems:
        raise DataError(f"{archive}: not unpacked - download the published file again", problems)


def repeated_members(names: Iterable[str]) -> list[str]:
    """Returns the members of a zip file of which only one could be unpacked, one line each.

    Names that differ in case or in the form of their accents alone are logged: they are one on the
    file systems of Windows and macOS.

    Args:
        names: The names of the files in the archive, as they are unpacked.
    """
    names = list(names)
    files, problems = set(names), []
    similar: dict[str, str] = {}
    for name, count in Counter(names).items():
        if count > 1:
            problems.append(f'"{name}" is the name of {count} members - rename one of the two')
        folders = (parent.as_posix() for parent in PurePosixPath(name).parents)
        problems += [f'"{name}": "{path}" is a file, too' for path in folders if path in files]
        first = similar.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            logger.warning('"%s" and "%s" are one file on Windows and macOS', first, name)
    return problems
