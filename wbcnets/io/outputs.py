"""Checks of the files and folders that a command writes, so that it replaces nothing of value.

A folder belongs to a command if the first line of its ``README.txt`` says so. A file belongs to a
command if its beginning holds a text that the command writes.

An output is locked while a command writes it. The operating system holds the lock and drops it when
the process ends, however it ends. It spans machines if the network file system has locks, as NFS
does; elsewhere the lock's file itself marks the output as taken (``filelock.SoftFileLock``).
"""

import errno
import os
import socket
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from wbcnets.errors import CheckpointError, ConfigError, WbcnetsError
from wbcnets.io.atomic_files import MAX_NAME_BYTES, shorten_name, write_text

README_NAME = "README.txt"
_HEAD_BYTES = 4096
_LOCK_NAME, _OWNER_ENDING = ".lock", ".owner"
_LOCK_FILES = frozenset({_LOCK_NAME, _LOCK_NAME + _OWNER_ENDING})
_OWNER_LENGTH = 300
# Seconds; enough for another command that is just releasing the lock
_PATIENCE = 0.2
_SHOWN = 300  # characters of a path in messages

StrPath = str | os.PathLike[str]


class OutputLock:
    """A lock of an output; held until the ``with`` block, the object or the process ends.

    The lock of a folder is a file in it, the lock of a file one beside it.

    Args:
        output: An existing folder, or a file in one.
        command: Names the command that writes the output, such as "train cells".
        setting: The Python argument that names the output.
        placeholders: Names of files that are removed, together with the folder, if the ``with``
            block fails and has added nothing else.

    Raises:
        ConfigError: if another process, or another call in this one, holds the lock.
        CheckpointError: if the folder cannot be written.
    """

    def __init__(
        self,
        output: Path,
        command: str,
        setting: str = "output",
        placeholders: frozenset[str] = frozenset(),
    ) -> None:
        self.output = output
        self._placeholders = placeholders
        path = _lock_path(output)
        owner = path.with_name(path.name + _OWNER_ENDING)
        lock = FileLock(path, timeout=_PATIENCE, thread_local=False)
        try:
            lock.acquire()
            self.release = weakref.finalize(self, _release, lock, (owner, path), os.getpid())
            owner.write_text(_describe_process(command), encoding="utf-8")
        except Timeout as error:
            kind = "folder" if output.is_dir() else "name"
            raise ConfigError(
                f"{output}: is being written by {_read_owner(owner)}; wait until it has ended, or "
                f"choose another {kind}",
                setting=setting,
            ) from error
        except (OSError, NotImplementedError) as error:
            raise CheckpointError(
                f"{output}: cannot be locked ({error}); choose a folder that you may write",
                setting=setting,
            ) from error

    def __enter__(self) -> "OutputLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self._placeholders:
            _remove_unused(self.output, self._placeholders)
        self.release()


def check_folder(
    folder: StrPath,
    command: str,
    inputs: Iterable[StrPath] = (),
    data: Iterable[StrPath] = (),
    results: Iterable[str] = (),
    setting: str = "output",
) -> None:
    """Checks that a command may write into a folder.

    Args:
        folder: The folder.
        command: Names the command, such as "predict smears".
        inputs: Files and folders that the command reads, which must not lie in the folder; names
            that are no paths are ignored.
        data: More inputs; if one is a folder, the output must not lie in it.
        results: Patterns of files that an earlier call leaves and that must not be replaced.
        setting: The Python argument that names the folder.

    Raises:
        ConfigError: if the folder cannot be written, holds an input, lies in a data folder, holds
            files of others or an earlier result, or is being written by another process.
    """
    folder = Path(folder)
    _check_purpose(folder, command, inputs, data, results, setting)
    _try_writing(folder, folder, setting)


def _check_purpose(
    folder: Path,
    command: str,
    inputs: Iterable[StrPath],
    data: Iterable[StrPath],
    results: Iterable[str],
    setting: str,
) -> None:
    """Checks as ``check_folder`` does, but does not try to write."""
    check_path(folder, setting)
    target, data = _real_path(folder), list(data)
    for path in filter(os.path.exists, [*inputs, *data]):
        if _is_inside(_real_path(path), target):
            raise ConfigError(
                f"{folder}: is or holds an input, {os.fspath(path)}; choose another folder",
                setting=setting,
            )
    for path in filter(os.path.isdir, data):
        if _is_inside(target, _real_path(path)):
            raise ConfigError(
                f"{folder}: lies in the data folder {os.fspath(path)}; choose one outside of it",
                setting=setting,
            )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name a folder", setting=setting)
    check_unlocked(folder, command, setting)
    _check_contents(folder, command, results, setting)


def _check_contents(folder: Path, command: str, results: Iterable[str], setting: str) -> None:
    """Checks that a folder is empty, or belongs to a command and holds no result of it."""
    names = sorted(set(os.listdir(folder)) - _LOCK_FILES)
    if names and not _holds(folder / README_NAME, _first_line(command)):
        raise ConfigError(
            f"{folder}: holds files that wbcnets {command} did not write, such as {names[0]}; "
            "choose a new or empty folder",
            setting=setting,
        )
    found = (path.name for pattern in results for path in folder.glob(pattern))
    if any(name not in _LOCK_FILES for name in found):
        raise ConfigError(
            f"{folder}: holds an earlier result of wbcnets {command}; choose another folder",
            setting=setting,
        )


def claim_folder(
    folder: StrPath,
    command: str,
    inputs: Iterable[StrPath] = (),
    data: Iterable[StrPath] = (),
    results: Sequence[str] = (),
    setting: str = "output",
) -> OutputLock:
    """Checks a folder by ``check_folder``, creates it, and makes it the command's.

    Args:
        folder: The folder.
        command: Names the command.
        inputs: See ``check_folder``.
        data: See ``check_folder``.
        results: See ``check_folder``.
        setting: See ``check_folder``.

    Returns:
        The lock of the folder. A ``with`` block holds it while the command writes; a block that
        fails before it has written anything leaves no new folder behind.

    Raises:
        ConfigError: if the command may not write into the folder.
        CheckpointError: if the folder cannot be written.
    """
    folder = Path(folder)
    _check_purpose(folder, command, inputs, data, results, setting)
    is_new = not folder.exists()
    with _refused(folder, setting):
        folder.mkdir(parents=True, exist_ok=True)
    # Only now: a trial removes the folder that it makes, perhaps under another process
    _try_writing(folder, folder, setting)
    placeholders = frozenset({README_NAME} if is_new else ())
    lock = OutputLock(folder, command, setting, placeholders)
    _check_contents(folder, command, results, setting)  # another process may have come first
    # Also over the text of an earlier call, whose files are replaced one by one
    write_readme(folder, command, "It has not finished yet, or was stopped.\n")
    return lock


def write_readme(folder: StrPath, command: str, text: str) -> None:
    """Writes the ``README.txt`` that explains a folder and makes it the command's.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    write_text(Path(folder) / README_NAME, f"{_first_line(command)}\n\n{text}")


def claim_file(
    path: StrPath,
    inputs: Iterable[StrPath] = (),
    marker: str = "",
    setting: str = "output",
) -> OutputLock:
    """Checks that a command may write a file, creates its folder, and locks the file.

    Args:
        path: The file.
        inputs: Files that the command reads.
        marker: Text in the beginning of files that the command writes, which it may replace; empty
            if it replaces none.
        setting: The Python argument that names the file.

    Returns:
        The lock. A ``with`` block holds it while the command works; else it is dropped at once.

    Raises:
        ConfigError: if the path is an input, a folder or a device, another file of that name
            exists, another process is about to write it, or the file cannot be written.
        CheckpointError: if the file cannot be locked.
    """
    path = Path(path)
    check_path(path, setting)
    target = _real_path(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file", setting=setting)
    if any(_real_path(given) == target for given in inputs):
        raise ConfigError(f"{path}: is an input; choose another name", setting=setting)
    _check_replaceable(path, marker, setting)
    with _refused(path, setting):
        path.parent.mkdir(parents=True, exist_ok=True)
    _try_writing(path.parent, path, setting)
    lock = OutputLock(path, "", setting)
    _check_replaceable(path, marker, setting)  # another process may have come first
    return lock


def _check_replaceable(path: Path, marker: str, setting: str) -> None:
    if os.path.lexists(path) and not (marker and _holds(path, marker)):
        raise ConfigError(
            f"{path}: exists, and was not written by this command; choose another name, or remove "
            "it",
            setting=setting,
        )


def check_path(path: StrPath, setting: str = "output") -> None:
    """Checks that the system accepts a path, which need not exist.

    Args:
        path: The file or folder.
        setting: The Python argument that names it.

    Raises:
        ConfigError: if the path or a name in it is too long or not valid UTF-8, holds a null byte,
            leads through a file, or is a link to nothing.
    """
    with _refused(path, setting):
        text = os.fspath(path)
        if any(len(part.encode()) > MAX_NAME_BYTES for part in Path(text).parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if os.path.islink(text) and not os.path.exists(text):
            raise OSError(errno.ENOENT, "exists, but is a link that leads nowhere")
        with suppress(FileNotFoundError):
            os.stat(text)


def check_unlocked(folder: Path, command: str, setting: str = "output") -> None:
    """Checks that no process is writing a folder.

    Raises:
        ConfigError: if one is.
    """
    check_path(folder, setting)
    if (folder / _LOCK_NAME).exists():
        OutputLock(folder, command, setting).release()


@contextmanager
def _refused(path: StrPath, setting: str) -> Iterator[None]:
    """Turns the errors of the system, and of impossible paths, into one that names the path."""
    try:
        yield
    except WbcnetsError:
        raise
    except (OSError, ValueError) as error:  # ValueError: null bytes, or no valid UTF-8
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{_show(path)}: cannot be written ({reason}); choose another name",
            setting=setting,
        ) from error


def _show(path: StrPath) -> str:
    """Returns a path on one line, without the middle of a long one."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(path))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def _try_writing(folder: Path, named: Path, setting: str) -> None:
    """Writes a nameless file into a folder, and removes it and the folders made for it.

    Args:
        folder: The folder.
        named: The path to name in an error.
        setting: The Python argument that names that path.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _refused(named, setting):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0")
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()


def _first_line(command: str) -> str:
    return f"Written by wbcnets {command}."


def _holds(path: Path, marker: str) -> bool:
    """Returns whether the beginning of a regular file holds a text."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return marker.encode() in stream.read(_HEAD_BYTES)
    except OSError:  # what cannot be read is not ours
        return False


def _real_path(path: StrPath) -> str:
    """Returns a path without links; one that cannot exist, with a null byte, as it is."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return os.fspath(path)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _lock_path(output: Path) -> Path:
    if output.is_dir():
        return output / _LOCK_NAME
    room = len(f".{_LOCK_NAME}{_OWNER_ENDING}")
    return output.with_name(f".{shorten_name(output.name, room)}{_LOCK_NAME}")


def _release(lock: FileLock, files: tuple[Path, ...], owner: int) -> None:
    """Releases a lock in the process that took it; forked processes leave it alone."""
    if os.getpid() != owner:
        return
    # Still locked: whoever opened the file before it is removed notices, and tries again
    with suppress(OSError):
        for path in files:
            path.unlink(missing_ok=True)
    lock.release()


def _remove_unused(folder: Path, placeholders: frozenset[str]) -> None:
    """Removes a folder that holds placeholders only."""
    names = set(os.listdir(folder))
    if names <= placeholders | _LOCK_FILES:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _describe_process(command: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    name = f"wbcnets {command}".strip()
    return f"{name}, process {os.getpid()} on {socket.gethostname()}, since {now}"


def _read_owner(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    shown = "".join(letter for letter in text[:_OWNER_LENGTH] if letter.isprintable())
    return shown or "another process"
