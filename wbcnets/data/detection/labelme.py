"""LabelMe annotations (one JSON file per image) to COCO.

Rectangles, polygons, circles and masks become their bounding boxes; shapes that enclose nothing are
dropped by type and named. Shapes of one label that share a group_id are parts of one cell and
become one box. The image embedded in the file is never decoded: sizes come from the image file.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wbcnets.data.detection.box_checks import BadBox, Box
from wbcnets.data.detection.coco_builder import CocoBuilder
from wbcnets.data.detection.image_paths import find_by_stem, normalize_file_name
from wbcnets.data.detection.report import ConversionReport
from wbcnets.errors import DataError
from wbcnets.io.image_facts import image_facts
from wbcnets.io.strict_json import read_json

MAX_BYTES = 256 << 20
# The fewest points that make each shape; a LabelMe mask is stored with the corners of its box.
_MINIMUM_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2}


@dataclass
class Shape:
    """One shape that encloses something, as `(x1, y1, x2, y2)`."""

    item: str
    name: str
    group: int | None
    corners: Box


def labelme_to_coco(
    annotation_files: Sequence[str | os.PathLike[str]],
    image_folder: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    aliases: Mapping[str, str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    bad_box: BadBox = "drop",
    repair: bool = False,
) -> tuple[dict[str, Any], ConversionReport]:
    """Converts LabelMe files to a COCO object.

    Args:
        annotation_files: The JSON files, one per image.
        image_folder: Folder of the images, found by the name in `imagePath`, whose folders are
            ignored, then by the JSON file's stem.
        classes: The classes; other labels are an error, with the nearest class suggested.
        aliases: Other labels in the files -> class, such as `{"NEU": "neutrophil"}`.
        image_root: Folder that `file_name` is relative to, `image_folder` by default.
        bad_box: See `wbcnets.data.detection.box_checks.check_box`.
        repair: Whether shapes and files that would be problems are left out and listed.

    Returns:
        The COCO object, and the report. Shapes merged by group_id count as one repaired box and
        otherwise dropped ones, so that the counts of shapes add up.

    Raises:
        DataError: With all problems of all files, each with file and shape.
    """
    builder = CocoBuilder(classes, bad_box, repair)
    folder = Path(image_folder)
    root = Path(image_root) if image_root is not None else folder
    images: dict[Path, Path] = {}
    for path in map(Path, annotation_files):
        builder.report.n_images += 1
        data: dict[str, Any] = {}
        try:
            data = read_json(path, MAX_BYTES)
            image = _find_image(path, data.get("imagePath"), folder)
            facts = image_facts(image)
            if image in images:
                raise DataError(f"{path}: annotates the same image as {images[image].name}")
        except DataError as error:
            builder.report.refuse_image(str(error))
            _reject_shapes(path, data.get("shapes"), builder)
            continue
        width, height = facts.width, facts.height
        images[image] = path
        if (data.get("imageWidth"), data.get("imageHeight")) not in ((width, height), (None, None)):
            builder.report.notes.append(
                f"{path.name}: imageWidth and imageHeight {data.get('imageWidth')}x"
                f"{data.get('imageHeight')} are stale, {width}x{height} is taken from the file"
            )
        builder.add_image(image.relative_to(root).as_posix(), width, height)
        _add_shapes(path, data.get("shapes"), aliases or {}, builder)
    return builder.finish(f"{len(annotation_files)} LabelMe files")


def _reject_shapes(path: Path, entries: object, builder: CocoBuilder) -> None:
    """Counts the shapes of a file that is left out."""
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = str(entry.get("label")) if isinstance(entry, dict) else "?"
        if builder.report.repair:
            builder.reject(f"{path.name}: shapes[{index}]", name, "its file is left out")


def _find_image(path: Path, image_path: object, folder: Path) -> Path:
    # Only the last part of imagePath is used: its folders are those of the annotator's machine.
    name = PurePosixPath(normalize_file_name(str(image_path))).name if image_path else ""
    if name and name != ".." and "\0" not in name and (folder / name).is_file():
        return folder / name
    found = find_by_stem(folder, path.stem)
    if found is None:
        raise DataError(
            f'{path}: neither its imagePath "{name}" nor an image "{path.stem}.*" is in {folder}'
        )
    return found


def _add_shapes(
    path: Path, entries: object, aliases: Mapping[str, str], builder: CocoBuilder
) -> None:
    if not isinstance(entries, list):
        builder.report.refuse_image(f'{path}: "shapes" is {entries!r:.80}, expected a list')
        return
    groups: dict[tuple[str, int], list[Shape]] = {}
    for index, entry in enumerate(entries):
        shape = _read_shape(f"{path.name}: shapes[{index}]", entry, aliases, builder)
        if shape is None:
            continue
        if shape.group is None:
            builder.add_box(shape.item, shape.name, _to_box([shape]))
        else:
            groups.setdefault((shape.name, shape.group), []).append(shape)
    for (name, group), shapes in groups.items():
        first = shapes[0]
        repairs = []
        if len(shapes) > 1:
            repairs.append(f"union of {len(shapes)} shapes of group_id {group}")
        builder.add_box(first.item, name, _to_box(shapes), repairs=repairs)
        for shape in shapes[1:]:
            builder.drop(shape.item, name, f"part of {first.item}, group_id {group}")


def _read_shape(
    item: str, entry: object, aliases: Mapping[str, str], builder: CocoBuilder
) -> Shape | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        builder.reject(item, "?", f"{entry!r:.120} needs a label")
        return None
    name = aliases.get(entry["label"], entry["label"])
    item = f'{item} "{entry["label"]}"'
    kind = entry.get("shape_type") or "polygon"
    points = _read_points(entry.get("points"))
    if points is None:
        builder.reject(
            item, name, f"points {entry.get('points')!r:.120} must be pairs of finite numbers"
        )
        return None
    if kind not in _MINIMUM_POINTS:
        builder.drop(item, name, f"a {kind} encloses nothing")
        return None
    if len(points) < _MINIMUM_POINTS[kind]:
        builder.drop(item, name, f"a {kind} of {len(points)} points encloses nothing")
        return None
    group = entry.get("group_id")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int)):
        builder.reject(item, name, f"group_id {group!r:.80} must be a whole number or null")
        return None
    return Shape(item, name, group, _corners(kind, points))


def _read_points(value: object) -> list[tuple[float, float]] | None:
    if not isinstance(value, list):
        return None
    points = []
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            return None
        for number in point:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                return None
            # NaN fails the comparison too.
            if not abs(number) <= 1e9:
                return None
        points.append((float(point[0]), float(point[1])))
    return points


def _corners(kind: str, points: Sequence[tuple[float, float]]) -> Box:
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    columns, rows = zip(*points)
    return min(columns), min(rows), max(columns), max(rows)


def _to_box(shapes: Sequence[Shape]) -> Box:
    left = min(shape.corners[0] for shape in shapes)
    top = min(shape.corners[1] for shape in shapes)
    right = max(shape.corners[2] for shape in shapes)
    bottom = max(shape.corners[3] for shape in shapes)
    return left, top, right - left, bottom - top
