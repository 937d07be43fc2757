"""Checks of the files and folders that a command writes, so that it replaces nothing of value.

A folder belongs to a command if the first line of its ``README.txt`` says so. A file belongs to a
command if its beginning holds a text that the command writes.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wbcnets.errors import ConfigError
from wbcnets.io.atomic_files import write_text

README_NAME = "README.txt"
_HEAD_BYTES = 4096

StrPath = str | os.PathLike[str]


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
        ConfigError: if the folder holds an input, lies in a data folder, or holds files of others
            or an earlier result.
    """
    folder = Path(folder)
    target, data = os.path.realpath(folder), list(data)
    for path in filter(os.path.exists, [*inputs, *data]):
        if _is_inside(os.path.realpath(path), target):
            raise ConfigError(
                f"{folder}: is or holds an input, {os.fspath(path)}; choose another folder",
                setting=setting,
            )
    for path in filter(os.path.isdir, data):
        if _is_inside(target, os.path.realpath(path)):
            raise ConfigError(
                f"{folder}: lies in the data folder {os.fspath(path)}; choose one outside of it",
                setting=setting,
            )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name a folder", setting=setting)
    names = sorted(os.listdir(folder))
    if names and not _holds(folder / README_NAME, _first_line(command)):
        raise ConfigError(
            f"{folder}: holds files that wbcnets {command} did not write, such as {names[0]}; "
            "choose a new or empty folder",
            setting=setting,
        )
    if any(any(folder.glob(pattern)) for pattern in results):
        raise ConfigError(
            f"{folder}: holds an earlier result of wbcnets {command}; choose another folder",
            setting=setting,
        )


def claim_folder(folder: StrPath, command: str, *inputs_and_data: Any, **checks: Any) -> None:
    """Checks a folder by ``check_folder``, creates it, and makes it the command's.

    Args:
        folder: The folder.
        command: Names the command.
        *inputs_and_data: See ``check_folder``.
        **checks: See ``check_folder``.

    Raises:
        ConfigError: if the command may not write into the folder.
        CheckpointError: if the folder cannot be written.
    """
    check_folder(folder, command, *inputs_and_data, **checks)
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not (Path(folder) / README_NAME).exists():
        write_readme(folder, command, "It has not finished yet, or was stopped.\n")


def write_readme(folder: StrPath, command: str, text: str) -> None:
    """Writes the ``README.txt`` that explains a folder and makes it the command's.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    write_text(Path(folder) / README_NAME, f"{_first_line(command)}\n\n{text}")


def claim_file(
    path: StrPath, inputs: Iterable[StrPath] = (), marker: str = "", setting: str = "output"
) -> None:
    """Checks that a command may write a file, and creates its folder.

    Args:
        path: The file.
        inputs: Files that the command reads.
        marker: Text in the beginning of files that the command writes, which it may replace; empty
            if it replaces none.
        setting: The Python argument that names the file.

    Raises:
        ConfigError: if the path is an input, a folder or a device, or another file of that name
            exists.
    """
    path = Path(path)
    target = os.path.realpath(path)
    if any(os.path.realpath(given) == target for given in inputs):
        raise ConfigError(f"{path}: is an input; choose another name", setting=setting)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file", setting=setting)
    if os.path.lexists(path) and not (marker and _holds(path, marker)):
        raise ConfigError(
            f"{path}: exists, and was not written by this command; choose another name, or remove "
            "it",
            setting=setting,
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def _first_line(command: str) -> str:
    return f"Written by wbcnets {command}."


def _holds(path: Path, marker: str) -> bool:
    """Returns whether the beginning of a regular file holds a text."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return marker.encode() in stream.read(_HEAD_BYTES)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
