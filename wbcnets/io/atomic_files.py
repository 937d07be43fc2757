"""Writes files whole or not at all, with a SHA-256 beside those that hold no checksums themselves.

The digest of ``NAME`` is in ``NAME.sha256``, as ``sha256sum`` writes it.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from wbcnets.errors import CheckpointError

MAX_NAME_BYTES = 255
# Longer names of temporary files: two dots and a number or random letters
_TEMPORARY_BYTES = 24
_RANDOM_BYTES = 6
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_KEPT_CHARACTERS = 40
_MAX_SUFFIX_BYTES = 16
_FULL = (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = re.compile(r"^([0-9a-f]{64})  ", re.MULTILINE)


class DigestError(Exception):
    """A file does not fit its digest; the text says why."""


def write_atomically(path: Path, write: Callable[[Any], object], durable: bool = True) -> None:
    """Writes a file so that at any instant either the old or the new one is there, and whole.

    Args:
        path: The final name.
        write: Gets a binary file opened for writing.
        durable: Whether it must survive a loss of power, for which the disk is waited for.

    Raises:
        CheckpointError: if the file cannot be written; the old one is untouched.
    """
    # Named before it exists: whatever stops the process can then find and remove it
    head = shorten_name(path.name, _TEMPORARY_BYTES)
    temporary = path.with_name(f".{head}.{secrets.token_hex(_RANDOM_BYTES)}")
    with _named_errors(path):
        try:
            descriptor = os.open(temporary, _NEW_FILE, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def copy_atomically(source: Path, target: Path) -> None:
    """Copies the content of a file, whole or not at all.

    Raises:
        OSError: if the source cannot be read.
        CheckpointError: if the target cannot be written; the old one is untouched.
    """
    with source.open("rb") as stream:
        write_atomically(target, lambda file: shutil.copyfileobj(stream, file), durable=False)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 as ``write_atomically`` does; invalid characters are escaped.

    Raises:
        CheckpointError: if the file cannot be written; the old one is untouched.
    """
    # Names of files need not be valid UTF-8
    content = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))


def write_with_digest(path: Path, content: bytes) -> None:
    """Writes a file as ``write_atomically`` does, and its SHA-256 beside it.

    A crash in between leaves a file without a digest.

    Raises:
        CheckpointError: if a file cannot be written.
    """
    with _named_errors(path):
        digest_path(path).unlink(missing_ok=True)
    write_atomically(path, lambda file: file.write(content))
    write_text(digest_path(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


def keep_copy(path: Path, copy: Path) -> None:
    """Makes ``copy`` a second name for the present content of a file, if it exists.

    Replacing ``path`` later leaves the copy as it is.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    if not path.is_file():
        return
    temporary = copy.with_name(f".{shorten_name(copy.name, _TEMPORARY_BYTES)}.{os.getpid()}")
    with _named_errors(copy):
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
            os.replace(temporary, copy)
            _sync_folder(copy.parent)
        finally:
            temporary.unlink(missing_ok=True)


def digest_path(path: Path) -> Path:
    """Returns the path of the SHA-256 beside a file."""
    return path.with_name(path.name + ".sha256")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of the bytes of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_digest(path: Path) -> None:
    """Compares a file with the SHA-256 beside it, if there is one.

    Raises:
        DigestError: if they differ.
    """
    sidecar = digest_path(path)
    if not sidecar.is_file():
        return
    known = _DIGEST.search(sidecar.read_bytes()[:4096].decode("ascii", "replace"))
    if known is None:
        raise DigestError(f"{sidecar.name} beside it holds no SHA-256")
    if sha256_of_file(path) != known.group(1):
        raise DigestError(f"its SHA-256 differs from that in {sidecar.name}")


def shorten_name(name: str, room: int = 0) -> str:
    """Returns a file name, or a shorter one if file systems would refuse it.

    Different names stay different.

    Args:
        name: A name without a folder.
        room: Bytes to leave free for an ending.
    """
    if _count_bytes(name) + room <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix
    return hash_name(name, suffix if _count_bytes(suffix) <= _MAX_SUFFIX_BYTES else "")


def shorten_path(path: PurePosixPath) -> PurePosixPath:
    """Returns a relative path with each of its names shortened; see ``shorten_name``."""
    return PurePosixPath(*map(shorten_name, path.parts))


def hash_name(name: str, suffix: str = "") -> str:
    """Returns a short file name: the beginning of a name without slashes, its hash and a suffix."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name[:_KEPT_CHARACTERS].replace('/', '_')}-{digest}{suffix}"


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # PyTorch and Pillow raise errors of their own, without a number, when the disk is full
        number = getattr(error, "errno", None)
        is_full = number in _FULL
        raise CheckpointError(
            f"{path}: could not be written ({error}){_free_space(path.parent) if is_full else ''}; "
            "the previous file, if any, is untouched. "
            f"{'Free some space, or choose' if is_full else 'Choose'} another output folder"
        ) from error


def _free_space(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    except OSError:
        return ""


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _count_bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))
