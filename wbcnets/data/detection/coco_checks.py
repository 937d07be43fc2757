"""The checks behind `load_coco`: categories, images and annotations of one COCO file, in one pass.

Every function takes the report and adds to it what it found; none of them stops at the first fault.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from wbcnets.data.detection.box_checks import BadBox, Box, check_box, looks_like_corners, read_box
from wbcnets.data.detection.image_paths import normalize_file_name, refuse_file_name
from wbcnets.data.detection.report import ConversionReport
from wbcnets.io.image_facts import ImageFacts, facts_or_reasons

# From this share of boxes on, corners stored as [x, y, width, height] are taken to be systematic.
CORNERS_SHARE = 0.05
CORNERS_MINIMUM = 3
NEAR_DUPLICATE_IOU = 0.95
# An image with a shorter side shows no cell
SMALL_SIDE = 16


@dataclass
class BoxRecord:
    """One annotation that passed the checks."""

    annotation_id: int
    label: int
    box: Box
    area: float
    crowd: bool


@dataclass
class ImageRecord:
    """One image of the file, with the boxes that passed the checks."""

    item: str
    id: int
    file_name: str
    width: int
    height: int
    repairs: list[str] = field(default_factory=list)
    boxes: list[BoxRecord] = field(default_factory=list)
    box_items: dict[tuple[int, bool, Box], str] = field(default_factory=dict)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer; `true` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_section(data: dict[str, Any], key: str, report: ConversionReport) -> list[Any]:
    """Returns a top-level list of the file; a missing, empty or other value is a problem."""
    value = data.get(key)
    if isinstance(value, list) and value:
        return value
    if key not in data:
        report.problems.append(f'the key "{key}" is missing - this is no COCO detection file')
    elif isinstance(value, list):
        report.problems.append(f'"{key}" is empty - at least one entry is needed')
    else:
        report.problems.append(f'"{key}" is a {type(value).__name__}, expected a list')
    return []


def read_categories(data: dict[str, Any], report: ConversionReport) -> dict[int, str]:
    """Reads the category table.

    Returns:
        Category id -> name, in order of id; ids may start at 0 and have gaps.
    """
    names: dict[int, str] = {}
    by_name: dict[str, str] = {}
    for index, category in enumerate(read_section(data, "categories", report)):
        item = f"categories[{index}]"
        if not isinstance(category, dict) or not is_integer(category.get("id")):
            report.problems.append(f"{item}: {category!r:.200} needs an integer id")
            continue
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            report.problems.append(f"{item} (id={category['id']}): name {name!r} is no name")
            continue
        if category["id"] in names:
            report.problems.append(
                f'{item}: id {category["id"]} of "{name}" is already that of '
                f'"{names[category["id"]]}" - give each category its own id'
            )
            continue
        key = " ".join(name.casefold().split())
        if key in by_name:
            report.problems.append(
                f'{item}: "{name}" is the same name as that of {by_name[key]} - merge the two'
            )
        by_name[key] = f'{item} "{name}"'
        names[category["id"]] = name
    return dict(sorted(names.items()))


def read_images(
    data: dict[str, Any], root: Path, check_images: bool, report: ConversionReport
) -> dict[int, ImageRecord]:
    """Reads the image table and compares it with the files.

    Args:
        data: The COCO file.
        root: Resolved folder that the images must lie in.
        check_images: Whether every file is decoded; without it only those whose size the JSON
            lacks are.
        report: Where findings go.

    Returns:
        Image id -> record.
    """
    records: dict[int, ImageRecord] = {}
    names: dict[str, str] = {}
    for index, entry in enumerate(read_section(data, "images", report)):
        record = _read_image_entry(index, entry, root, report)
        report.n_images += 1
        if record is None:
            continue
        if record.id in records:
            report.refuse_image(
                f"{record.item}: its id is already that of {records[record.id].item} - "
                "give each image its own id"
            )
            continue
        if record.file_name in names:
            report.notes.append(f"{record.item}: is the same file as {names[record.file_name]}")
        names[record.file_name] = record.item
        records[record.id] = record
    wanted = [r for r in records.values() if check_images or r.width <= 0 or r.height <= 0]
    unusable = _compare_with_files(wanted, root, report)
    unusable |= {record.id for record in records.values() if not record.file_name}
    if not report.repair:
        # Their annotations are checked all the same, so that one pass finds all problems
        return records
    return {number: record for number, record in records.items() if number not in unusable}


def _read_image_entry(
    index: int, entry: object, root: Path, report: ConversionReport
) -> ImageRecord | None:
    if not isinstance(entry, dict) or not is_integer(entry.get("id")):
        report.refuse_image(f"images[{index}]: {entry!r:.200} needs an integer id")
        return None
    name = entry.get("file_name")
    item = f'images[{index}] (id={entry["id"]}, "{name}")'
    record = ImageRecord(item, entry["id"], str(name), 0, 0)
    if isinstance(name, str) and "\\" in name and not name.startswith("\\\\"):
        name = record.file_name = normalize_file_name(name)
        record.repairs.append("backslashes of the file name turned into slashes")
    refusal = refuse_file_name(name, root)
    if refusal:
        report.refuse_image(f"{item}: {refusal}")
        # Kept without a size check, so that the image's annotations are not reported as orphans.
        record.width = record.height = 1 << 30
        record.file_name = ""
    width, height = entry.get("width"), entry.get("height")
    if is_integer(width) and is_integer(height) and width > 0 and height > 0:
        record.width, record.height = width, height
    return record


def _compare_with_files(
    records: Sequence[ImageRecord], root: Path, report: ConversionReport
) -> set[int]:
    """Decodes the files and compares their sizes with the JSON's; ids of unusable images."""
    readable = [record for record in records if record.file_name]
    unusable = set()
    found = facts_or_reasons(root / record.file_name for record in readable)
    for record, facts in zip(readable, found):
        if isinstance(facts, str):
            report.refuse_image(f"{record.item}: {facts}")
            unusable.add(record.id)
            record.width, record.height = record.width or 1 << 30, record.height or 1 << 30
            continue
        size = (facts.width, facts.height)
        if record.width <= 0 or record.height <= 0:
            record.width, record.height = size
            record.repairs.append(f"width and height {size} taken from the file")
        elif (record.width, record.height) != size:
            turned = (record.height, record.width) == size
            hint = " (the JSON ignores the EXIF orientation of the file)" if turned else ""
            report.refuse_image(
                f"{record.item}: the JSON says {record.width}x{record.height}, the file is "
                f"{size[0]}x{size[1]}{hint} - correct width and height, and check the boxes"
            )
            unusable.add(record.id)
    _note_conversions(readable, found, report)
    return unusable


def _note_conversions(
    records: Sequence[ImageRecord], found: Sequence[ImageFacts | str], report: ConversionReport
) -> None:
    """Notes what reading does to the images, and which of them are hardly any."""
    kinds: dict[str, list[str]] = {}
    for record, facts in zip(records, found):
        if isinstance(facts, str):
            continue
        tiny = (
            [f"smaller than {SMALL_SIDE} px"] if min(facts.width, facts.height) < SMALL_SIDE else []
        )
        for kind in (*facts.conversions, *tiny):
            kinds.setdefault(kind, []).append(record.file_name)
    for kind, names in sorted(kinds.items()):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        report.notes.append(f"{len(names)} images: {kind} ({', '.join(names[:3])}{more})")


def read_annotations(
    data: dict[str, Any],
    records: dict[int, ImageRecord],
    categories: dict[int, str],
    bad_box: BadBox,
    report: ConversionReport,
) -> None:
    """Reads the annotations into their image records, counting every one of them.

    Args:
        data: The COCO file.
        records: Image id -> record; boxes are added to them.
        categories: Category id -> name, in order of the labels.
        bad_box: See `check_box`.
        report: Where counts and findings go.
    """
    labels = {category: label for label, category in enumerate(categories)}
    seen_ids: dict[int, str] = {}
    corners: list[str] = []
    without_area = 0
    for index, entry in enumerate(read_section(data, "annotations", report)):
        item = _annotation_item(index, entry, records)
        problems = _schema_problems(entry, records, labels, {} if report.repair else seen_ids)
        box = read_box(entry.get("bbox")) if isinstance(entry, dict) else ""
        if isinstance(box, str):
            problems += [box] if box else []
        if isinstance(entry, dict) and is_integer(entry.get("id")):
            seen_ids.setdefault(entry["id"], item)
        name = _category_name(entry, categories)
        report.read[name] += 1
        if problems or isinstance(box, str):
            report.refuse_box(item, problems)
            continue
        record = records[entry["image_id"]]
        if looks_like_corners(box, record.width, record.height):
            corners.append(item)
        without_area += "area" not in entry or "iscrowd" not in entry
        twice = report.repair and seen_ids[entry["id"]] != item
        repairs = ["its id stands twice: numbered anew"] if twice else []
        label = labels[entry["category_id"]]
        _place_box(item, entry, box, label, record, bad_box, report, name, repairs)
    if without_area:
        report.notes.append(f"{without_area} annotations lacked area or iscrowd: filled in")
    if len(corners) >= max(CORNERS_MINIMUM, CORNERS_SHARE * report.n_read):
        report.problems.insert(
            0,
            f"{len(corners)} of {report.n_read} boxes, the first of them {corners[0]}, look like "
            "[x1, y1, x2, y2] where [x, y, width, height] is expected - convert the file",
        )


def _annotation_item(index: int, entry: object, records: dict[int, ImageRecord]) -> str:
    if not isinstance(entry, dict):
        return f"annotations[{index}]"
    image_id = entry.get("image_id")
    record = records.get(image_id) if is_integer(image_id) else None
    image = f'image "{record.file_name}"' if record else f"image_id={image_id!r}"
    return f"annotations[{index}] (id={entry.get('id')!r}, {image})"


def _category_name(entry: object, categories: dict[int, str]) -> str:
    category = entry.get("category_id") if isinstance(entry, dict) else None
    return categories.get(category, str(category)) if is_integer(category) else str(category)


def _schema_problems(
    entry: object,
    records: dict[int, ImageRecord],
    labels: dict[int, int],
    seen_ids: dict[int, str],
) -> list[str]:
    if not isinstance(entry, dict):
        return [f"{entry!r:.200} is no annotation object"]
    problems = []
    if not is_integer(entry.get("id")):
        problems.append(f"id {entry.get('id')!r:.200} must be an integer")
    elif entry["id"] in seen_ids:
        problems.append(f"its id is already that of {seen_ids[entry['id']]} - renumber them")
    image_id = entry.get("image_id")
    if not is_integer(image_id) or image_id not in records:
        problems.append(f"image_id {image_id!r:.200} is no image of this file - add the image")
    category = entry.get("category_id")
    if not is_integer(category) or category not in labels:
        problems.append(
            f"category_id {category!r:.200} is unknown - expected one of {list(labels)}"
        )
    for key in ("iscrowd", "ignore", "difficult"):
        if entry.get(key, 0) not in (0, 1):
            problems.append(f"{key} {entry[key]!r:.200} must be 0 or 1")
    return problems


def _place_box(
    item: str,
    entry: dict[str, Any],
    box: Box,
    label: int,
    record: ImageRecord,
    bad_box: BadBox,
    report: ConversionReport,
    name: str,
    repairs: Sequence[str],
) -> None:
    """Judges one well-formed annotation and books it: used, repaired, dropped, or a problem."""
    verdict = check_box(box, record.width, record.height, bad_box)
    if verdict.action == "error":
        report.refuse_box(item, [verdict.reason])
        return
    if verdict.action == "drop":
        report.dropped.append(f"{item}: {verdict.reason}")
        return
    crowd = bool(entry.get("iscrowd", 0))
    key = (label, crowd, verdict.box)
    if key in record.box_items:
        report.dropped.append(f"{item}: exact duplicate of {record.box_items[key]}")
        return
    record.box_items[key] = item
    repairs = [*repairs, verdict.reason] if verdict.reason else list(repairs)
    if not crowd and any(entry.get(flag, 0) for flag in ("ignore", "difficult")):
        crowd = True
        repairs.append("marked ignore or difficult: kept as iscrowd=1, which evaluation ignores")
    if repairs:
        report.repaired.append(f"{item}: {'; '.join(repairs)}")
    else:
        report.n_used += 1
    report.kept[name] += 1
    area = verdict.box[2] * verdict.box[3]
    given = entry.get("area")
    # A mask's area is smaller than its box; any other value is not an area of this box.
    if verdict.action == "use" and isinstance(given, (int, float)) and 0 < given < area:
        area = float(given)
    record.boxes.append(BoxRecord(entry["id"], label, verdict.box, area, crowd))


def note_near_duplicates(records: Iterable[ImageRecord], report: ConversionReport) -> None:
    """Notes the boxes of one class that cover nearly the same pixels (IoU over 0.95)."""
    for record in records:
        if len(record.boxes) < 2:
            continue
        boxes = np.array([item.box for item in record.boxes])
        labels = np.array([item.label for item in record.boxes])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        low = np.maximum(corners[:, None, :2], corners[None, :, :2])
        high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=2)
        area = boxes[:, 2] * boxes[:, 3]
        near = overlap > NEAR_DUPLICATE_IOU * (area[:, None] + area[None, :] - overlap)
        near &= labels[:, None] == labels[None, :]
        for first, second in zip(*np.nonzero(np.triu(near, k=1))):
            report.notes.append(
                f"{record.item}: annotations {record.boxes[first].annotation_id} and "
                f"{record.boxes[second].annotation_id} cover nearly the same box (IoU over "
                f"{NEAR_DUPLICATE_IOU})"
            )
