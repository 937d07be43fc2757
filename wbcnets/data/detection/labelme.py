"""Reads LabelMe annotations: one JSON file per image.

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

from wbcnets.data.detection.box_checks import Box, Policy
from wbcnets.data.detection.builder import BoxEntry, DatasetBuilder, ImageEntry, smear_facts
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.image_paths import find_by_stem, normalize_file_name
from wbcnets.errors import DataError
from wbcnets.io.strict_json import read_json

MAX_BYTES = 256 << 20
# The fewest points of each shape; a LabelMe mask is stored with the corners of its box
_MINIMUM_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2}
_NO_LABEL = "?"


@dataclass
class Shape:
    """One shape that encloses something, as ``(x1, y1, x2, y2)`` in px."""

    item: str
    name: str
    group: int | None
    xyxy: Box


def load_labelme(
    annotation_files: Sequence[str | os.PathLike[str]],
    image_folder: str | os.PathLike[str],
    class_names: Sequence[str] = (),
    *,
    aliases: Mapping[str, str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    policy: Policy = "drop",
) -> CocoDataset:
    """Reads and checks LabelMe files.

    Args:
        annotation_files: The JSON files, one per image.
        image_folder: Folder of the images, found by the name in ``imagePath``, whose folders are
            ignored, then by the JSON file's stem.
        class_names: The classes; other labels are problems, with the nearest class suggested. By
            default those of the files.
        aliases: Other labels in the files -> class, such as ``{"NEU": "neutrophil"}``.
        image_root: Folder that file names are relative to, ``image_folder`` by default.
        policy: How far to go with faulty items, see ``wbcnets.data.detection.box_checks.Policy``.

    Returns:
        The dataset. Shapes merged by group_id count as one repaired box and otherwise dropped
        ones, so that the counts of shapes add up.

    Raises:
        DataError: if there are problems in any file; all of them are listed.
    """
    folder = Path(image_folder)
    builder = DatasetBuilder(f"{len(annotation_files)} LabelMe files", image_root or folder, policy)
    contents: dict[Path, dict[str, Any]] = {}
    for path in map(Path, annotation_files):
        builder.report.n_images += 1
        try:
            contents[path] = read_json(path, MAX_BYTES)
            contents[path].pop("imageData", None)  # megabytes that nobody reads
        except DataError as error:
            builder.refuse_image(str(error))
    aliases = aliases or {}
    labels = (label for data in contents.values() for label in _labels(data.get("shapes")))
    builder.set_classes(class_names, (aliases.get(x, x) for x in labels if x != _NO_LABEL))
    annotated: dict[Path, Path] = {}
    for path, data in contents.items():
        try:
            image = _find_image(path, data.get("imagePath"), folder)
            if (first := annotated.setdefault(image, path)) != path:
                raise DataError(f"{path}: annotates the same image as {first.name}")
            _add_file(path, data, image, aliases, builder)
        except DataError as error:
            builder.refuse_image(str(error))
            for index, label in enumerate(_labels(data.get("shapes"))):
                builder.skip_box(f"{path.name}: shapes[{index}]", label, "its file is left out")
    return builder.finish()


def _add_file(
    path: Path,
    data: dict[str, Any],
    image: Path,
    aliases: Mapping[str, str],
    builder: DatasetBuilder,
) -> None:
    facts = smear_facts(image)
    size = data.get("imageWidth"), data.get("imageHeight")
    if size not in (facts.size, (None, None)):
        builder.report.notes.append(
            f"{path.name}: imageWidth and imageHeight {size[0]!r:.40}x{size[1]!r:.40} are stale; "
            f"{facts.width}x{facts.height} is taken from the file"
        )
    entry = builder.add_image(ImageEntry(str(path), builder.relative(image)), facts)
    _add_shapes(path, data.get("shapes"), aliases, entry, builder)


def _labels(shapes: object) -> list[str]:
    """Returns the label of each shape, or ``_NO_LABEL``."""
    labels = []
    for shape in shapes if isinstance(shapes, list) else ():
        label = shape.get("label") if isinstance(shape, dict) else None
        labels.append(label if isinstance(label, str) else _NO_LABEL)
    return labels


def _find_image(path: Path, image_path: object, folder: Path) -> Path:
    # Only the last part of imagePath is used: its folders are those of the annotator's machine.
    name = PurePosixPath(normalize_file_name(str(image_path))).name if image_path else ""
    if name and name != ".." and os.path.isfile(folder / name):
        return folder / name
    found = find_by_stem(folder, path.stem)
    if found is None:
        raise DataError(
            f'{path}: neither its imagePath "{name:.80}" nor an image "{path.stem}.*" is in '
            f"{folder}"
        )
    return found


def _add_shapes(
    path: Path,
    shapes: object,
    aliases: Mapping[str, str],
    image: ImageEntry,
    builder: DatasetBuilder,
) -> None:
    if not isinstance(shapes, list):
        builder.refuse_image(f'{path}: "shapes" is {shapes!r:.80}, expected a list')
        return
    groups: dict[tuple[str, int], list[Shape]] = {}
    for index, entry in enumerate(shapes):
        shape = _read_shape(f"{path.name}: shapes[{index}]", entry, aliases, builder)
        if shape is None:
            continue
        if shape.group is None:
            builder.add_box(image, BoxEntry(shape.item, shape.name, _to_box([shape])))
        else:
            groups.setdefault((shape.name, shape.group), []).append(shape)
    for (name, group), parts in groups.items():
        first = parts[0]
        repairs = []
        if len(parts) > 1:
            repairs.append(f"union of {len(parts)} shapes of group_id {group}")
        builder.add_box(image, BoxEntry(first.item, name, _to_box(parts), repairs=repairs))
        for shape in parts[1:]:
            builder.drop_box(shape.item, name, f"part of {first.item}, group_id {group}")


def _read_shape(
    item: str, entry: object, aliases: Mapping[str, str], builder: DatasetBuilder
) -> Shape | None:
    """Returns a shape that encloses something; any other one is booked and None is returned."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        builder.refuse_box(item, _NO_LABEL, f"{entry!r:.120} needs a label")
        return None
    name = aliases.get(entry["label"], entry["label"])
    item = f'{item} "{entry["label"]}"'
    kind, group = entry.get("shape_type") or "polygon", entry.get("group_id")
    points = _read_points(entry.get("points"))
    if points is None:
        reason = f"points {entry.get('points')!r:.120} must be pairs of finite numbers"
        builder.refuse_box(item, name, reason)
    elif not isinstance(kind, str):
        builder.refuse_box(item, name, f"shape_type {kind!r:.80} must be a text")
    elif kind not in _MINIMUM_POINTS:
        builder.drop_box(item, name, f"a {kind:.40} encloses nothing")
    elif len(points) < _MINIMUM_POINTS[kind]:
        builder.drop_box(item, name, f"a {kind} of {len(points)} points encloses nothing")
    elif group is not None and (isinstance(group, bool) or not isinstance(group, int)):
        builder.refuse_box(item, name, f"group_id {group!r:.80} must be a whole number or null")
    else:
        return Shape(item, name, group, _enclosing_xyxy(kind, points))
    return None


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


def _enclosing_xyxy(kind: str, points: Sequence[tuple[float, float]]) -> Box:
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    columns, rows = zip(*points)
    return min(columns), min(rows), max(columns), max(rows)


def _to_box(shapes: Sequence[Shape]) -> Box:
    """Returns the ``[x, y, width, height]`` that encloses the shapes, without noise digits."""
    lefts, tops, rights, bottoms = zip(*(shape.xyxy for shape in shapes))
    x, y = min(lefts), min(tops)
    return round(x, 4), round(y, 4), round(max(rights) - x, 4), round(max(bottoms) - y, 4)
