"""Reads COCO detection files, with all faults of a file found in one pass.

Training, evaluation and the commands read annotations through ``load_coco``, so that a box that is
left out is left out everywhere, and is named.
"""

import os
from pathlib import Path
from typing import Any, TypeGuard

from wbcnets.data.cards.classes import explain_class_name, normalize_name
from wbcnets.data.detection.box_checks import Box, Policy, looks_like_xyxy, read_box
from wbcnets.data.detection.builder import BoxEntry, DatasetBuilder, ImageEntry, smear_facts
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.image_paths import normalize_file_name, resolve_file_name
from wbcnets.errors import DataError
from wbcnets.io.parallel import try_images
from wbcnets.io.strict_json import read_json

# From this fraction of boxes on, [x1, y1, x2, y2] in place of [x, y, w, h] is called systematic
XYXY_FRACTION = 0.05
XYXY_MINIMUM = 3
# The size (px) of an image without a size: its boxes are still checked for everything else
_ENDLESS = 1 << 30


def load_coco(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    policy: Policy = "drop",
    check_images: bool = True,
) -> CocoDataset:
    """Reads and checks a COCO detection file.

    Args:
        json_file: The annotations.
        image_root: Folder that every ``file_name`` is relative to and must stay inside.
        policy: How far to go with faulty items, see ``wbcnets.data.detection.box_checks.Policy``;
            with "skip", duplicate annotation ids are numbered anew.
        check_images: Whether all image files are decoded and their sizes compared; the findings
            are cached by content, so that the next time costs little.

    Returns:
        The dataset. Segmentations are not read.

    Raises:
        DataError: if the file cannot be read or has problems: all of them are in ``problems``, each
            with file and item.
    """
    builder = DatasetBuilder(os.fspath(json_file), image_root, policy)
    return _build(read_json(json_file), check_images, builder, consume=True)


def parse_coco(
    data: dict[str, Any],
    image_root: str | os.PathLike[str],
    *,
    source: str,
    policy: Policy = "drop",
    check_images: bool = True,
) -> CocoDataset:
    """Checks a COCO object that is already in memory; see ``load_coco``.

    Args:
        data: The COCO object.
        image_root: Folder of the images.
        source: Name of the object in messages.
        policy: As for ``load_coco``.
        check_images: As for ``load_coco``.

    Raises:
        DataError: if the object has problems.
    """
    builder = DatasetBuilder(source, image_root, policy)
    return _build(data, check_images, builder)


def _build(
    data: dict[str, Any], check_images: bool, builder: DatasetBuilder, consume: bool = False
) -> CocoDataset:
    """Checks a COCO object; with ``consume``, annotations that were read are removed from it."""
    builder.categories = _read_categories(data, builder)
    images = _read_images(data, check_images, builder)
    _read_annotations(data, images, builder, consume)
    return builder.finish(prefix=f"{Path(builder.source).name}: ")


def _is_integer(value: object) -> TypeGuard[int]:
    """Tells whether a JSON value is an integer of 64 bits; ``true`` is not."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _read_section(data: dict[str, Any], key: str, builder: DatasetBuilder) -> list[Any]:
    """Returns a top-level list of the file; a missing, empty or other value is a problem."""
    value = data.get(key)
    if isinstance(value, list) and value:
        return value
    if key not in data:
        problem = f'the key "{key}" is missing - this is not a COCO detection file'
    elif isinstance(value, list):
        problem = f'"{key}" is empty - at least one entry is needed'
    else:
        problem = f'"{key}" is a {type(value).__name__}, expected a list'
    builder.report.problems.append(problem)
    return []


def _read_categories(data: dict[str, Any], builder: DatasetBuilder) -> dict[int, str]:
    """Returns category id -> name in order of id; ids may start at 0 and have gaps."""
    problems = builder.report.problems
    names: dict[int, str] = {}
    by_name: dict[str, str] = {}
    for index, category in enumerate(_read_section(data, "categories", builder)):
        item = f"categories[{index}]"
        if not isinstance(category, dict) or not _is_integer(category.get("id")):
            problems.append(f"{item}: {category!r:.200} needs an integer id of 64 bits")
            continue
        number, name = category["id"], category.get("name")
        if not isinstance(name, str) or not name.strip():
            problems.append(f"{item} (id={number}): {name!r:.200} is not a name")
            continue
        odd = explain_class_name(name)
        if odd:
            problems.append(f"{item} (id={number}): {odd}")
            continue
        if number in names:
            problems.append(
                f'{item}: id {number} of "{name}" is already that of "{names[number]}" - give '
                "each category its own id"
            )
            continue
        first = by_name.setdefault(normalize_name(name), f'{item} "{name}"')
        if not first.startswith(f"{item} "):
            problems.append(f'{item}: "{name}" is the same name as that of {first} - merge the two')
        names[number] = name
    return dict(sorted(names.items()))


def _read_images(
    data: dict[str, Any], check_images: bool, builder: DatasetBuilder
) -> dict[int, ImageEntry]:
    """Reads the image table and compares it with the files; returns image id -> entry."""
    report, root = builder.report, builder.image_root.resolve()
    images: dict[int, ImageEntry] = {}
    names: dict[str, str] = {}
    for index, value in enumerate(_read_section(data, "images", builder)):
        report.n_images += 1
        image = _read_image(index, value, root, builder)
        if image is None or image.id is None:
            continue
        if image.id in images:
            builder.refuse_image(
                f"{image.item}: its id is already that of {images[image.id].item} - give each "
                "image its own id"
            )
            continue
        if image.resolved and image.resolved in names:
            report.notes.append(f"{image.item}: is the same file as {names[image.resolved]}")
        names[image.resolved] = image.item
        images[image.id] = image
    usable = _compare_with_files(images, check_images, root, builder)
    # Annotations of unusable images are checked all the same, so that one pass finds all problems
    return usable if builder.skips else images


def _read_image(
    index: int, value: object, root: Path, builder: DatasetBuilder
) -> ImageEntry | None:
    """Returns an entry of the image table; its file name is empty if it must not be opened."""
    if not isinstance(value, dict) or not _is_integer(value.get("id")):
        builder.refuse_image(f"images[{index}]: {value!r:.200} needs an integer id of 64 bits")
        return None
    name = value.get("file_name")
    shown = f'images[{index}] (id={value["id"]}, "{str(name)[:200]}")'
    image = ImageEntry(shown, "", id=value["id"])
    if isinstance(name, str) and "\\" in name and not name.startswith("\\\\"):
        name = normalize_file_name(name)
        image.repairs.append("backslashes of the file name turned into slashes")
    resolved = resolve_file_name(name, root)
    if isinstance(resolved, str):
        builder.refuse_image(f"{image.item}: {resolved}")
    else:
        image.file_name, image.resolved = str(name), os.fspath(resolved)
    width, height = value.get("width"), value.get("height")
    if _is_integer(width) and _is_integer(height) and width > 0 and height > 0:
        image.width, image.height = width, height
    return image


def _compare_with_files(
    images: dict[int, ImageEntry], check_images: bool, root: Path, builder: DatasetBuilder
) -> dict[int, ImageEntry]:
    """Decodes the files, compares sizes, and adds the usable images, which it returns by id.

    Without ``check_images``, only the files of images without a size are decoded.
    """
    wanted = [k for k, i in images.items() if i.file_name and (check_images or not i.width)]
    paths = [root / images[number].file_name for number in wanted]
    found = dict(zip(wanted, try_images(smear_facts, paths, builder.source)))
    usable = {}
    for number, image in images.items():
        facts, problem = found.get(number), ""
        if isinstance(facts, DataError):
            problem = str(facts)
        elif facts is not None and not image.width:
            image.repairs.append(f"width and height {facts.size} taken from the file")
        elif facts is not None and facts.size != (image.width, image.height):
            turned = facts.size == (image.height, image.width)
            hint = " (the JSON ignores the EXIF orientation of the file)" if turned else ""
            problem = (
                f"the JSON says {image.width}x{image.height}, the file is {facts.width}x"
                f"{facts.height}{hint} - correct width and height, and check the boxes"
            )
        if problem:
            builder.refuse_image(f"{image.item}: {problem}")
        if problem or not image.file_name:
            image.width, image.height = image.width or _ENDLESS, image.height or _ENDLESS
        elif not isinstance(facts, DataError):
            builder.add_image(image, facts)
            usable[number] = image
    return usable


def _read_annotations(
    data: dict[str, Any], images: dict[int, ImageEntry], builder: DatasetBuilder, consume: bool
) -> None:
    """Reads the annotations into their images and counts every one of them."""
    report = builder.report
    seen: dict[int, str] = {}
    xyxy: list[str] = []
    incomplete = 0
    annotations = _read_section(data, "annotations", builder)
    for index, value in enumerate(annotations):
        if consume:  # millions of them take more memory than the boxes
            annotations[index] = None
        item = _annotation_item(index, value, images)
        name = _category_name(value, builder.categories)
        problems = _schema_problems(value, images, builder.categories)
        box = read_box(value.get("bbox")) if isinstance(value, dict) else ""
        if isinstance(box, str):
            problems += [box] if box else []
        first = item
        if isinstance(value, dict) and _is_integer(value.get("id")):
            first = seen.setdefault(value["id"], item)
        if first != item and not builder.skips:
            problems.append(f"its id is already that of {first} - renumber them")
        if problems or isinstance(box, str):
            builder.refuse_box(item, name, *problems)
            continue
        image = images[value["image_id"]]
        if looks_like_xyxy(box, image.width, image.height):
            xyxy.append(item)
        incomplete += "area" not in value or "iscrowd" not in value
        builder.add_box(image, _box_entry(item, name, box, value, twice=first != item))
    if incomplete:
        report.notes.append(f"{incomplete} annotations lacked area or iscrowd: filled in")
    n_read = report.read.total()
    if len(xyxy) >= max(XYXY_MINIMUM, XYXY_FRACTION * n_read):
        report.problems.insert(
            0,
            f"{len(xyxy)} of {n_read} boxes, the first of them {xyxy[0]}, look like "
            "[x1, y1, x2, y2] where [x, y, width, height] is expected - convert the file",
        )


def _box_entry(item: str, name: str, box: Box, value: dict[str, Any], twice: bool) -> BoxEntry:
    crowd, area, repairs = bool(value.get("iscrowd", 0)), value.get("area"), []
    if not crowd and (value.get("ignore", 0) or value.get("difficult", 0)):
        crowd = True
        repairs.append("marked ignore or difficult: kept as iscrowd=1, which is not scored")
    if twice:
        repairs.append("its id is a duplicate: numbered anew")
    known = area if isinstance(area, (int, float)) else None
    return BoxEntry(item, name, box, crowd, known, value["id"], repairs or ())


def _annotation_item(index: int, value: object, images: dict[int, ImageEntry]) -> str:
    if not isinstance(value, dict):
        return f"annotations[{index}]"
    image_id = value.get("image_id")
    image = images.get(image_id) if _is_integer(image_id) else None
    text = f'image "{image.file_name}"' if image else f"image_id={image_id!r:.40}"
    return f"annotations[{index}] (id={value.get('id')!r:.40}, {text})"


def _category_name(value: object, categories: dict[int, str]) -> str:
    category = value.get("category_id") if isinstance(value, dict) else None
    return categories.get(category, str(category)) if _is_integer(category) else str(category)


def _schema_problems(
    value: object, images: dict[int, ImageEntry], categories: dict[int, str]
) -> list[str]:
    if not isinstance(value, dict):
        return [f"{value!r:.200} is not an annotation object"]
    problems = []
    if not _is_integer(value.get("id")):
        problems.append(f"id {value.get('id')!r:.200} must be an integer of 64 bits")
    image_id = value.get("image_id")
    if not _is_integer(image_id) or image_id not in images:
        problems.append(f"image_id {image_id!r:.200} is no image of this file - add the image")
    category = value.get("category_id")
    if not _is_integer(category) or category not in categories:
        problems.append(
            f"category_id {category!r:.200} is unknown - expected one of {list(categories)}"
        )
    for key in ("iscrowd", "ignore", "difficult"):
        if value.get(key, 0) not in (0, 1):
            problems.append(f"{key} {value[key]!r:.200} must be 0 or 1")
    return problems
