"""Files that are written whole or not at all, and the SHA-256 that stands beside them.

The digest of `NAME` is in `NAME.sha256`, as `sha256sum` writes it.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wbcnets.errors import CheckpointError

_DIGEST = re.compile(r"^([0-9a-f]{64})  ", re.MULTILINE)


def write_with_digest(path: Path, write: Callable[[Any], object]) -> None:
    """Writes a file as `write_atomically` does, and its SHA-256 beside it.

    The two files cannot change in one instant, so the digest of the new content is added beside
    that of the old one first, and the old one is taken away last: a crash in between leaves a file
    that one of the two digests fits.

    Args:
        path: The final name.
        write: Gets a binary file opened for writing.

    Raises:
        CheckpointError: The file could not be written; the old one is untouched.
    """
    with _written_beside(path, write) as temporary:
        _replace_with_digest(path, temporary)


def keep_copy(path: Path, copy: Path) -> None:
    """Makes `copy` a second name of a file's present content, with its digest beside it.

    Replacing `path` later leaves the copy as it is.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    if not path.is_file():
        return
    with _named_errors(copy):
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
            _replace_with_digest(copy, temporary)
        finally:
            temporary.unlink(missing_ok=True)


def _replace_with_digest(path: Path, temporary: Path) -> None:
    sidecar = digest_path(path)
    digest = sha256_of_file(temporary)
    old = ([*read_digests(path)] or [sha256_of_file(path)]) if path.is_file() else []
    lines = [f"{value}  {path.name}\n" for value in dict.fromkeys([digest, *old])]
    write_atomically(sidecar, lambda file: file.write("".join(lines).encode()))
    with _named_errors(path):
        os.replace(temporary, path)
        _sync_folder(path.parent)
    write_atomically(sidecar, lambda file: file.write(lines[0].encode()))


def digest_path(path: Path) -> Path:
    """Where the SHA-256 of a file stands."""
    return path.with_name(path.name + ".sha256")


def read_digests(path: Path) -> tuple[str, ...]:
    """The SHA-256 that a file may have by what stands beside it; none where nothing does."""
    sidecar = digest_path(path)
    if not sidecar.is_file():
        return ()
    return tuple(_DIGEST.findall(sidecar.read_bytes()[:4096].decode("ascii", "replace")))


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_digest(path: Path) -> None:
    """Compares a file with the SHA-256 beside it, where there is one.

    Raises:
        DigestError: They do not go together.
    """
    if not digest_path(path).is_file():
        return
    known = read_digests(path)
    if not known:
        raise DigestError(f"{digest_path(path).name} beside it holds no SHA-256")
    if sha256_of_file(path) not in known:
        raise DigestError(f"it is not the file that {digest_path(path).name} beside it tells of")


class DigestError(Exception):
    """A file and its digest do not go together; the text says which."""


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Writes a file so that at any instant either the old or the new one stands whole.

    Args:
        path: The final name.
        write: Gets a binary file opened for writing.

    Raises:
        CheckpointError: The file could not be written; the old one is untouched.
    """
    with _written_beside(path, write) as temporary, _named_errors(path):
        os.replace(temporary, path)
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 as ``write_atomically`` does; half a character in a file name is escaped.

    Raises:
        CheckpointError: if the file cannot be written; the old one is untouched.
    """
    # Names of files need not be valid UTF-8
    content = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))


@contextmanager
def _written_beside(path: Path, write: Callable[[Any], object]) -> Iterator[Path]:
    """A temporary file in the same folder, written and synced; gone afterwards."""
    name = ""
    try:
        with _named_errors(path):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that nobody else may read
        yield Path(name)
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: could not be written ({error}){_free_space(path.parent)}; the previous file, "
            "if any, is untouched. Free some space, or choose another output folder"
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


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
