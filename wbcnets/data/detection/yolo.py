"""YOLO labels (one text file per image, `class x_center y_center width height` in 0..1) to COCO."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wbcnets.data.detection.box_checks import BadBox
from wbcnets.data.detection.coco_builder import CocoBuilder
from wbcnets.data.detection.report import ConversionReport
from wbcnets.errors import DataError
from wbcnets.io.image_facts import image_facts

# Centers and sizes may exceed 1 by this much; beyond it they are pixels, not fractions.
TOLERANCE = 0.01
MAX_BYTES = 1 << 20
_INTEGER = re.compile(r"[0-9]{1,6}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def yolo_to_coco(
    image_files: Sequence[str | os.PathLike[str]],
    label_folder: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] | None = None,
    other_images: Sequence[str | os.PathLike[str]] = (),
    bad_box: BadBox = "drop",
    repair: bool = False,
) -> tuple[dict[str, Any], ConversionReport]:
    """Converts YOLO labels to a COCO object.

    Args:
        image_files: The images; the labels of `x.png` are in `<label_folder>/x.txt`, and an image
            without that file is a negative.
        label_folder: Folder of the label files; one that has no image is an error.
        classes: The classes in the order that the COCO file gets, category ids from 1.
        image_root: Folder that `file_name` is relative to.
        label_names: Name of each class number in the label files, `classes` by default.
        other_images: Images that are left out on purpose and whose labels may lie in the folder.
        bad_box: See `wbcnets.data.detection.box_checks.check_box`.
        repair: Whether lines and files that would be problems are left out and listed.

    Returns:
        The COCO object, and the report.

    Raises:
        DataError: With all problems of all files, each as `file.txt:line`.
    """
    names = tuple(label_names if label_names is not None else classes)
    builder = CocoBuilder(classes, bad_box, repair)
    folder = Path(label_folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: the label folder does not exist - correct the path")
    images = [Path(image) for image in image_files]
    _refuse_stray_labels(images, [Path(image) for image in other_images], folder, builder)
    without_labels = 0
    for image in images:
        builder.report.n_images += 1
        labels = folder / f"{image.stem}.txt"
        try:
            facts = image_facts(image)
        except DataError as error:
            builder.report.refuse_image(str(error))
            _reject_labels(labels, builder)
            continue
        width, height = facts.width, facts.height
        builder.add_image(image.relative_to(image_root).as_posix(), width, height)
        if labels.is_file():
            _add_labels(labels, names, width, height, builder)
        else:
            without_labels += 1
    if without_labels:
        builder.report.notes.append(
            f"{without_labels} images have no label file: kept as images without cells"
        )
    return builder.finish(f"YOLO labels in {folder.name}")


def _reject_labels(path: Path, builder: CocoBuilder) -> None:
    """Counts the lines of an image that is left out."""
    if not builder.report.repair or not path.is_file():
        return
    for number, line in enumerate(path.read_bytes()[:MAX_BYTES].splitlines(), start=1):
        if line.strip():
            builder.reject(f"{path.name}:{number}", "?", "its image is left out")


def _refuse_stray_labels(
    images: Sequence[Path], others: Sequence[Path], folder: Path, builder: CocoBuilder
) -> None:
    stems = {image.stem for image in images}
    if len(stems) != len(images):
        builder.problem(str(folder), "two images share a stem, so labels cannot be told apart")
    stems.update(image.stem for image in others)
    # classes.txt is where annotation tools keep the class names.
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in stems and path.name != "classes.txt":
            builder.report.n_images += 1
            builder.report.refuse_image(f"{path}: there is no image of this name - add the image")
            _reject_labels(path, builder)


def _add_labels(
    path: Path, names: Sequence[str], width: int, height: int, builder: CocoBuilder
) -> None:
    if path.stat().st_size > MAX_BYTES:
        builder.reject(str(path), "?", f"exceeds the limit of {MAX_BYTES:,} bytes")
        return
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        builder.reject(str(path), "?", f"byte {error.start} is no UTF-8 - save the file as UTF-8")
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = f"{path.name}:{number}"
        parsed = parse_line(line, len(names))
        if isinstance(parsed, str):
            builder.reject(item, "?", parsed)
            continue
        label, x, y, w, h = parsed
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        builder.add_box(item, names[label], box)


def parse_line(line: str, num_classes: int) -> tuple[int, float, float, float, float] | str:
    """Reads one label line strictly.

    Args:
        line: `class x_center y_center width height`, the last four in 0..1.
        num_classes: Class numbers run from 0 to this, exclusive.

    Returns:
        The five values, or the reason why the line is not usable.
    """
    columns = line.split()
    if len(columns) != 5:
        return f"{len(columns)} columns in {line!r:.120}, expected class, x, y, width, height"
    if not _INTEGER.fullmatch(columns[0]):
        return f"class {columns[0]!r} must be a whole number"
    label = int(columns[0])
    if label >= num_classes:
        return f"class {label} is unknown, the classes are 0 to {num_classes - 1}"
    for column in columns[1:]:
        if not _NUMBER.fullmatch(column):
            return f"{column!r} is no number (decimal points, no commas)"
    x, y, w, h = (float(column) for column in columns[1:])
    if max(x, y, w, h) > 1 + TOLERANCE or min(x, y) < -TOLERANCE or min(w, h) < 0:
        return f"{columns[1:]} must lie in 0..1 - divide pixels by the size of the image"
    return label, x, y, w, h
