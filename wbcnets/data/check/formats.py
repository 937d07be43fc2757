"""Detects the format of a dataset: COCO, Pascal VOC, LabelMe, YOLO, or images of cells."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from wbcnets.data.cells.manifest import MANIFEST_NAME, is_manifest
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.image_files import IMAGE_SUFFIXES, find_files, read_regular_file
from wbcnets.io.strict_json import MAX_BYTES, read_json
from wbcnets.io.strict_yaml import read_yaml
from wbcnets.io.tables import read_lines

FORMATS = ("coco", "voc", "labelme", "yolo", "cells")
# The number of files of a folder by which its format is detected
_SAMPLE = 2000
_IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img")


@dataclass(frozen=True)
class FoundSet:
    """One set to check.

    Args:
        path: The given path, or a part of it.
        format: One of ``FORMATS``, or "manifest".
        images: Folder of the images; for cells the path itself.
        files: The annotation files, sorted; for YOLO the folder of labels.
        class_names: The classes, if the set lists them.
    """

    path: Path
    format: str
    images: Path
    files: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()


def find_sets(path: Path, images: Path | None = None, kind: str = "") -> list[FoundSet]:
    """Returns the sets that a path holds: a folder with several COCO files has several.

    Args:
        path: A file or folder.
        images: The folder of the images; searched beside the annotations by default.
        kind: One of ``FORMATS``; detected by default.

    Raises:
        DataError: if the path holds no such set.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: there is no such file or folder - correct the path")
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"{path}: is a pipe or a device - give a file or a folder")
    kind = kind or _kind_of(path)
    if kind == "cells":
        manifest = path / MANIFEST_NAME if path.is_dir() else path
        if manifest.is_file() and is_manifest(manifest):
            return [FoundSet(manifest, "manifest", manifest.parent)]
        return [FoundSet(path, "cells", path)]
    if kind == "yolo":
        return [_yolo_set(path, images)]
    suffix = ".xml" if kind == "voc" else ".json"
    files = tuple(sorted(_files(_annotations_in(path, suffix), suffix)))
    if not files:
        raise DataError(f"{path}: holds no annotation files of the format {kind}")
    if kind == "coco":
        return [
            FoundSet(file, "coco", images or _images_beside(file, path), (file,)) for file in files
        ]
    return [FoundSet(path, kind, images or _images_beside(files[0], path), files)]


def _kind_of(path: Path) -> str:
    if path.is_file():
        kinds = {".json": "", ".xml": "voc", ".csv": "cells", ".zip": "cells", ".npz": "cells"}
        if path.suffix.lower() not in kinds:
            raise DataError(
                f"{path}: is neither a folder nor one of {', '.join(kinds)} - give the annotations "
                "or the folder of the images"
            )
        return kinds[path.suffix.lower()] or _kind_of_json(path)
    if (path / MANIFEST_NAME).is_file():
        return "cells"
    if any(_files(path, ".xml")):
        return "voc"
    json_file = next(_files(_annotations_in(path, ".json"), ".json"), None)
    if json_file is not None:
        return _kind_of_json(json_file)
    if (path / "data.yaml").is_file() or _label_folder(path) is not None:
        return "yolo"
    return "cells"


def _annotations_in(path: Path, suffix: str) -> Path:
    """Returns the part of a folder that holds its annotations, if it has the usual name."""
    for part in (path / "annotations", path / f"annotations{suffix}"):
        if path.is_dir() and any(_files(part, suffix)):
            return part
    return path


def _kind_of_json(path: Path) -> str:
    # A COCO file of millions of boxes is not parsed to find this out
    if b'"shapes"' not in read_regular_file(path, MAX_BYTES, "the JSON file"):
        return "coco"
    return "labelme" if "shapes" in read_json(path) else "coco"


def _files(path: Path, suffix: str) -> Iterator[Path]:
    """Yields the files of a suffix below a folder, or the file itself."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from find_files(path, {suffix}, outside_links=True)


def _images_beside(file: Path, given: Path) -> Path:
    """Returns the folder that usually holds the images of an annotation file."""
    folders = [given] if given.is_dir() else []
    folders += [file.parent, file.parent.parent]
    for folder in folders:
        for name in _IMAGE_FOLDERS:
            if (folder / name).is_dir():
                return folder / name
    return file.parent


def _label_folder(path: Path) -> Path | None:
    """Returns the folder of YOLO's labels: ``labels``, or one with both images and texts."""
    if (path / "labels").is_dir():
        return path / "labels"
    names = [entry for entry in islice(path.iterdir(), _SAMPLE) if entry.is_file()]
    stems = {entry.stem for entry in names if entry.suffix.lower() in IMAGE_SUFFIXES}
    texts = {entry.stem for entry in names if entry.suffix.lower() == ".txt"}
    return path if stems & texts else None


def _yolo_set(path: Path, images: Path | None) -> FoundSet:
    labels = _label_folder(path) if path.is_dir() else None
    if labels is None:
        raise DataError(
            f'{path}: expected a YOLO folder with "images" and "labels", or with images and their '
            "text files side by side"
        )
    beside = path / "images" if (path / "images").is_dir() else path
    return FoundSet(path, "yolo", images or beside, (labels,), _yolo_classes(path, labels))


def _yolo_classes(path: Path, labels: Path) -> tuple[str, ...]:
    for file in (path / "classes.txt", labels / "classes.txt"):
        if file.exists():
            return tuple(read_lines(file, "the list of classes"))
    file = path / "data.yaml"
    if not file.is_file():
        return ()
    try:
        content = read_yaml(file) or {}
    except ConfigError as error:
        raise DataError(f"{file}: cannot be used ({error}) - expected names: [...]") from error
    names = content.get("names", ()) if isinstance(content, dict) else None
    if isinstance(names, dict):  # a gap would shift the names of the classes behind it
        names = [names.get(number) for number in range(len(names))]
    plain = isinstance(names, (list, tuple))
    if not plain or not all(isinstance(name, (str, int)) for name in names or ()):
        raise DataError(
            f"{file}: names are {content!r:.200} - expected names: [...], or names of 0, 1, 2, ..."
        )
    return tuple(str(name) for name in names or ())
