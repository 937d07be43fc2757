"""Keeps file names from annotation files inside the image folder."""

import os
import re
from pathlib import Path

from wbcnets.io.image_files import IMAGE_SUFFIXES

MAX_LENGTH = 1000
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_DRIVE = re.compile(r"^[A-Za-z]:")


def normalize_file_name(file_name: str) -> str:
    """Turns backslashes, the separators of Windows, into slashes."""
    return file_name.replace("\\", "/")


def resolve_file_name(file_name: object, root: Path) -> Path | str:
    """Returns the file that a name in an annotation file means, or why it must not be opened.

    Args:
        file_name: The name as read, with slashes.
        root: Resolved folder that must hold every image.

    Returns:
        The resolved path, the same for all spellings of one file, of a name that stays inside
        ``root`` also after symbolic links; else the reason, and what to do.
    """
    if not isinstance(file_name, str) or not file_name.strip() or "\0" in file_name:
        return f"file_name {file_name!r} is not a file name - write the path of an image"
    if len(file_name) > MAX_LENGTH:
        return f'file_name "{file_name[:80]}..." has {len(file_name):,} characters - correct it'
    if _URL.match(file_name):
        return f'file_name "{file_name}" is a URL - download the image and name the local file'
    if file_name.startswith(("/", "\\\\")) or _DRIVE.match(file_name):
        return (
            f'file_name "{file_name}" is an absolute path - write it relative to the image folder'
        )
    # Both sides are resolved, so that neither ".." nor a symbolic link leads out
    try:
        resolved = (root / file_name).resolve()
    except (OSError, RuntimeError) as error:
        return f'file_name "{file_name}" cannot be resolved ({error})'
    if not resolved.is_relative_to(root):
        return (
            f'file_name "{file_name}" leads out of the image folder {root} - move the image into it'
        )
    return resolved


def find_by_stem(folder: Path, stem: str) -> Path | None:
    """Returns the image ``<stem>.<suffix>`` in a folder, whatever its suffix."""
    for suffix in sorted(IMAGE_SUFFIXES):
        for candidate in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix.upper()}"):
            if os.path.isfile(candidate):
                return candidate
    return None
