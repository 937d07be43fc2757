"""Reads YOLO labels: one text file per image of lines ``class x_center y_center width height``."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.detection.box_checks import NUMBER, Policy
from wbcnets.data.detection.builder import BoxEntry, DatasetBuilder, ImageEntry, smear_facts
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.errors import DataError
from wbcnets.io.parallel import try_images
from wbcnets.io.tables import read_text

# Centers and sizes may exceed 1 by this much; beyond it they are pixels, not fractions
TOLERANCE = 0.01
MAX_BYTES = 1 << 20
_TITLE = "the label file"
_INTEGER = re.compile(r"[0-9]{1,6}")


def load_yolo(
    image_files: Sequence[str | os.PathLike[str]],
    label_folder: str | os.PathLike[str],
    class_names: Sequence[str] = (),
    *,
    image_root: str | os.PathLike[str],
    label_names: Sequence[str] = (),
    other_images: Sequence[str | os.PathLike[str]] = (),
    policy: Policy = "drop",
) -> CocoDataset:
    """Reads and checks YOLO labels.

    Args:
        image_files: The images; the labels of ``x.png`` are in ``<label_folder>/x.txt``, and an
            image without that file is a negative.
        label_folder: Folder of the label files; one that has no image is a problem.
        class_names: The classes in the order of the dataset; "class 0" to the largest number of the
            labels by default.
        image_root: Folder that file names are relative to.
        label_names: Name of each class number in the label files, ``class_names`` by default.
        other_images: Images that are left out on purpose and whose labels may lie in the folder.
        policy: How far to go with faulty items, see ``wbcnets.data.detection.box_checks.Policy``.

    Raises:
        DataError: if there are problems in any file; all of them are listed as ``file.txt:line``.
    """
    folder = Path(label_folder)
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: the label folder does not exist - correct the path")
    builder = DatasetBuilder(f"YOLO labels in {folder.name}", image_root, policy)
    builder.set_classes(class_names or _numbered_names(folder))
    names = label_names or tuple(builder.categories.values())
    paths = [Path(image) for image in image_files]
    _refuse_stray_labels(paths, [Path(image) for image in other_images], folder, builder)
    unlabeled = 0
    for path, facts in zip(paths, try_images(smear_facts, paths, builder.source)):
        builder.report.n_images += 1
        labels = folder / f"{path.stem}.txt"
        if isinstance(facts, DataError):
            builder.refuse_image(str(facts))
            _skip_labels(labels, builder)
            continue
        image = builder.add_image(ImageEntry(str(path), builder.relative(path)), facts)
        if labels.exists():
            _add_labels(labels, names, image, builder)
        else:
            unlabeled += 1
    if unlabeled:
        builder.report.notes.append(
            f"{unlabeled} images have no label file: kept as images without cells"
        )
    return builder.finish()


def _numbered_names(folder: Path) -> list[str]:
    """Returns names such as "class 3" for a set that has numbers alone, up to the largest."""
    largest = 0
    for file in folder.glob("*.txt"):
        for line in _lines(file):
            first = line.split()[:1]
            if first and len(first[0]) <= 3 and _INTEGER.fullmatch(first[0]):
                largest = max(largest, int(first[0]))
    return [f"class {number}" for number in range(largest + 1)]


def _skip_labels(path: Path, builder: DatasetBuilder) -> None:
    """Counts the lines of an image that is left out."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            builder.skip_box(f"{path.name}:{number}", "?", "its image is left out")


def _refuse_stray_labels(
    images: Sequence[Path], others: Sequence[Path], folder: Path, builder: DatasetBuilder
) -> None:
    stems = {image.stem for image in images}
    if len(stems) != len(images):
        builder.report.problems.append(
            f"{folder}: two images share a stem, so labels cannot be told apart"
        )
    stems.update(image.stem for image in others)
    # Annotation tools keep the class names in classes.txt
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in stems and path.name != "classes.txt":
            builder.report.n_images += 1
            builder.refuse_image(f"{path}: there is no image of this name - add the image")
            _skip_labels(path, builder)


def _lines(path: Path) -> list[str]:
    """Returns the lines of a label file; none if it cannot be read, which is reported elsewhere."""
    try:
        return read_text(path, _TITLE, MAX_BYTES).split("\n")
    except DataError:
        return []


def _add_labels(
    path: Path, names: Sequence[str], image: ImageEntry, builder: DatasetBuilder
) -> None:
    try:
        text = read_text(path, _TITLE, MAX_BYTES)
    except DataError as error:
        builder.refuse_box(str(path), "?", str(error).removeprefix(f"{path}: "))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        item = f"{path.name}:{number}"
        parsed = parse_line(line, len(names))
        if isinstance(parsed, str):
            builder.refuse_box(item, "?", parsed)
            continue
        label, x, y, w, h = parsed
        left, top = (x - w / 2) * image.width, (y - h / 2) * image.height
        # Rounded, since fractions times sizes carry noise of the last digit
        box = round(left, 4), round(top, 4), round(w * image.width, 4), round(h * image.height, 4)
        builder.add_box(image, BoxEntry(item, names[label], box))


def parse_line(line: str, num_classes: int) -> tuple[int, float, float, float, float] | str:
    """Reads one label line.

    Args:
        line: ``class x_center y_center width height``, the last four in [0, 1].
        num_classes: Class numbers are in [0, num_classes).

    Returns:
        The five values, or the reason as a string.
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
        if not NUMBER.fullmatch(column):
            return f"{column!r} is not a number (decimal points, no commas)"
    x, y, w, h = (float(column) for column in columns[1:])
    if max(x, y, w, h) > 1 + TOLERANCE or min(x, y) < -TOLERANCE or min(w, h) < 0:
        return f"{columns[1:]} must lie in 0..1 - divide pixels by the size of the image"
    return label, x, y, w, h
