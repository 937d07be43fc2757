"""The parts that the readers of smear datasets share: layouts, copied images, lists."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from wbcnets.errors import DataError
from wbcnets.io.atomic_files import copy_atomically
from wbcnets.io.image_files import is_hidden
from wbcnets.io.images import read_image
from wbcnets.io.parallel import map_images
from wbcnets.io.tables import read_text

_MAX_DEPTH = 3


def find_layout(folder: Path, marker: str) -> Path:
    """Returns the folder that holds ``marker``: the source itself, or up to three levels below.

    Raises:
        DataError: if there is none, or more than one.
    """
    found = [
        path
        for depth in range(_MAX_DEPTH + 1)
        for path in sorted(folder.glob("*/" * depth + marker))
        if not is_hidden(path.relative_to(folder))
    ]
    if not found:
        raise DataError(f"{folder}: holds no {marker} - give the folder of the published dataset")
    if len(found) > 1:
        raise DataError(f"{folder}: holds {marker} {len(found)} times - give the inner folder")
    return found[0].parents[len(PurePosixPath(marker).parts) - 1]


def copy_images(files: Iterable[Path], target: Path) -> list[Path]:
    """Copies images byte by byte and decodes each once.

    Args:
        files: The images.
        target: The folder of the copies; created if it is missing.

    Returns:
        The copies, in the same order.

    Raises:
        DataError: if images are missing or damaged; all are listed.
    """
    target.mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> Path:
        read_image(path)
        copied = target / path.name
        if not copied.exists() or not copied.samefile(path):
            copy_atomically(path, copied)
        return copied

    return map_images(copy, files, str(target))


def read_list(path: Path) -> list[str]:
    """Returns the entries of a list of file stems, separated by white space.

    Raises:
        DataError: if the list is missing or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: the list is missing - get the whole dataset")
    return read_text(path, "the list").split()
