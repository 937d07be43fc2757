"""Lists files below a folder, and reads one: one walker, with one rule for the files that it skips.

``find_image_files`` lists the images of a folder, ``find_files`` the files of any suffix, and
``list_folder`` one folder with everything that was skipped. Zips, lists and patterns are up to
``wbcnets.io.image_sources``. ``read_regular_file`` reads a file that may come from anyone.

Hidden files and the system folders of ``IGNORED_FOLDERS`` are skipped. Links to folders are never
followed, since they may form loops; links to files count if they stay in the folder.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from wbcnets.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
# Should a pipe take the place of a file meanwhile, opening it must not wait
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
IGNORED_FOLDERS = frozenset({"__MACOSX", ".ipynb_checkpoints", ".git"})


@dataclass(frozen=True)
class FolderEntries:
    """The entries of one folder by kind, each list in natural order.

    Args:
        folders: Subfolders.
        files: Files of any suffix.
        links: Symbolic links to anything.
        hidden: Hidden entries and system folders.
        special: Pipes, sockets and devices.
    """

    folders: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    special: list[Path] = field(default_factory=list)


def find_image_files(
    folder: Path, recursive: bool = True, *, outside_links: bool = False
) -> list[Path]:
    """Returns the image files of a folder in natural order, those of subfolders last.

    Args:
        folder: The folder.
        recursive: Whether subfolders are searched.
        outside_links: Whether links to files outside the folder count.

    Raises:
        OSError: if a folder cannot be listed.
    """
    return list(find_files(folder, IMAGE_SUFFIXES, recursive, outside_links=outside_links))


def find_files(
    folder: Path,
    suffixes: Collection[str] | None = None,
    recursive: bool = True,
    *,
    outside_links: bool = False,
) -> Iterator[Path]:
    """Yields files as ``find_image_files`` lists images.

    Args:
        folder: The folder.
        suffixes: In lower case, such as ``{".json"}``; None for all files.
        recursive: Whether subfolders are searched.
        outside_links: Whether links to files outside the folder count.

    Raises:
        OSError: if a folder cannot be listed.
    """
    root = folder.resolve()
    pending = [folder]
    while pending:
        entries = list_folder(pending.pop())
        files = entries.files + [
            path
            for path in entries.links
            if path.is_file() and (outside_links or path.resolve().is_relative_to(root))
        ]
        files.sort(key=lambda path: natural_order(path.name))
        yield from (path for path in files if suffixes is None or path.suffix.lower() in suffixes)
        if recursive:
            pending += reversed(entries.folders)


def list_folder(folder: Path) -> FolderEntries:
    """Returns the entries of a folder by kind.

    Raises:
        OSError: if the folder cannot be listed.
    """
    entries = FolderEntries()
    # Not ``iterdir``: the entries of ``scandir`` know their kind without a call each
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: natural_order(entry.name)):
            if is_hidden(entry.name):
                entries.hidden.append(folder / entry.name)
            elif entry.is_symlink():
                entries.links.append(folder / entry.name)
            elif entry.is_dir():
                entries.folders.append(folder / entry.name)
            elif entry.is_file():
                entries.files.append(folder / entry.name)
            else:
                entries.special.append(folder / entry.name)
    return entries


def read_regular_file(path: str | os.PathLike[str], max_bytes: int, title: str) -> bytes:
    """Returns the bytes of a file, and never waits: a pipe or a device is refused.

    Args:
        path: The file.
        max_bytes: Larger files are refused.
        title: The kind of file in messages, such as "the image".

    Raises:
        DataError: if the file is missing, not a regular file, too large, still growing, or cannot
            be read.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{name}: {title} is not a file - correct the path")
        if status.st_size > max_bytes:
            raise DataError(
                f"{name}: {status.st_size:,} bytes exceed the limit of {max_bytes:,} for {title} - "
                "split the file"
            )
        with os.fdopen(os.open(name, _OPEN_FLAGS), "rb") as stream:
            content = stream.read(status.st_size + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{name}: {title} does not exist - correct the path") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: {title} cannot be read ({reason}) - check the file") from error
    if len(content) > status.st_size:
        raise DataError(f"{name}: {title} grows while it is read - wait until it is complete")
    return content


def is_image_name(name: str | PurePath) -> bool:
    """Tells whether a relative path is that of an image: by its suffix, and not hidden."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)


def is_hidden(name: str | PurePath) -> bool:
    """Tells whether a part of a relative path is hidden or a system folder."""
    parts = (part for part in PurePath(name).parts if part != "..")
    return any(part.startswith(".") or part in IGNORED_FOLDERS for part in parts)


def natural_order(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Returns a sorting key that orders numbers by value, 2 before 10, and ignores case first."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p], text
