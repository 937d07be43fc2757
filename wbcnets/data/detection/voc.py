"""Pascal VOC annotations (one XML file per image, as labelImg writes them) to COCO.

The coordinates of VOC are 1-based and inclusive: the first pixel is 1, and a box of one pixel has
xmin == xmax. Many tools write 0-based files of the same form, so the origin is an option. With
origin 1 a box becomes x = xmin - 1, y = ymin - 1, width = xmax - xmin + 1 and height = ymax - ymin
+ 1, the area that detectron2's Pascal VOC reader gives it; with origin 0 nothing is added. A box
whose corners coincide in x or y covers nothing that a person drew: it is dropped and named under
either origin.
"""

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from wbcnets.data.detection.box_checks import BadBox, Box
from wbcnets.data.detection.coco_builder import CocoBuilder
from wbcnets.data.detection.image_paths import find_by_stem, normalize_file_name, refuse_file_name
from wbcnets.data.detection.report import ConversionReport
from wbcnets.errors import DataError
from wbcnets.io.image_facts import image_facts

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocObject:
    """One object of a file: corners as written, in the file's own origin."""

    item: str
    name: str
    corners: Box
    difficult: bool


@dataclass
class VocFile:
    """What one XML file says."""

    path: Path
    file_name: str
    size: tuple[int, int]
    objects: list[VocObject]


def voc_to_coco(
    annotation_files: Sequence[str | os.PathLike[str]],
    image_folder: str | os.PathLike[str],
    classes: Sequence[str],
    origin: Literal["auto", 0, 1] = "auto",
    *,
    image_root: str | os.PathLike[str] | None = None,
    bad_box: BadBox = "drop",
    repair: bool = False,
) -> tuple[dict[str, Any], ConversionReport]:
    """Converts Pascal VOC files to a COCO object.

    Args:
        annotation_files: The XML files, one per image.
        image_folder: Folder of the images, found by the XML file's stem, then by its `<filename>`.
        classes: The classes; other names are an error, with the nearest class suggested.
        origin: Coordinate of the first pixel. "auto" takes 0 when any corner of the set is below 1
            and 1 otherwise; the notes of the report state it.
        image_root: Folder that `file_name` is relative to, `image_folder` by default.
        bad_box: See `wbcnets.data.detection.box_checks.check_box`.
        repair: Whether objects and files that would be problems are left out and listed.

    Returns:
        The COCO object, and the report. Objects marked difficult become `iscrowd=1`, which
        evaluation ignores.

    Raises:
        DataError: With all problems of all files, each with file and place.
    """
    builder = CocoBuilder(classes, bad_box, repair)
    files = []
    for path in annotation_files:
        builder.report.n_images += 1
        try:
            files.append(_parse_file(Path(path), builder))
        except DataError as error:
            builder.report.refuse_image(str(error))
    shift = _decide_origin(files, origin, builder)
    folder = Path(image_folder)
    root = Path(image_root) if image_root is not None else folder
    for file in files:
        image = _find_image(file, folder, builder)
        if image is None or not _add_file(file, image, root, shift, builder):
            for entry in file.objects if repair else ():
                builder.reject(entry.item, entry.name, "its image is left out")
    return builder.finish(f"{len(annotation_files)} Pascal VOC files")


def read_xml(path: Path) -> Element:
    """Parses a small XML file that may come from anybody.

    Raises:
        DataError: The file is missing, over 1 MiB, in an unknown encoding, no XML (with line and
            column), has a document type or entities, or is nested deeper than 32 elements.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes exceed the limit of {MAX_BYTES:,}")
    declared = _ENCODING.match(data.removeprefix(codecs.BOM_UTF8))
    encoding = declared.group(1).decode() if declared else "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        # Decoded here because expat knows few encodings, and none of those of Chinese tools.
        text = data.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be decoded as {encoding} ({error})") from error
    try:
        element = fromstring(text, forbid_dtd=True)
    except ParseError as error:
        line, column = error.position
        raise DataError(f"{path}:{line}:{column + 1}: no valid XML ({error})") from error
    except DefusedXmlException as error:
        raise DataError(
            f"{path}: declares a document type or entities, which no annotation needs - remove it"
        ) from error
    if _depth_exceeds(element, MAX_DEPTH):
        raise DataError(f"{path}: nested deeper than {MAX_DEPTH} elements")
    return element


def _depth_exceeds(element: Element, limit: int) -> bool:
    level = [element]
    for _ in range(limit):
        level = [child for parent in level for child in parent]
        if not level:
            return False
    return True


def _parse_file(path: Path, builder: CocoBuilder) -> VocFile:
    element = read_xml(path)
    if element.tag != "annotation":
        raise DataError(f"{path}: the top element is <{element.tag}>, expected <annotation>")
    size = (_integer(element.findtext("size/width")), _integer(element.findtext("size/height")))
    return VocFile(
        path, element.findtext("filename") or "", size, list(_objects(path, element, builder))
    )


def _integer(text: str | None) -> int:
    """A positive integer, or 0 for everything that is none."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0


def _objects(path: Path, element: Element, builder: CocoBuilder) -> Iterator[VocObject]:
    for index, entry in enumerate(element.findall("object")):
        name = entry.findtext("name") or ""
        item = f'{path.name}: object[{index}] "{name}"'
        texts = [entry.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text or "") for text in texts)
        except ValueError:
            builder.reject(item, name, f"bndbox {dict(zip(_CORNERS, texts))} needs four numbers")
            continue
        if not all(abs(value) <= 1e9 for value in (xmin, ymin, xmax, ymax)):
            builder.reject(item, name, f"bndbox {texts} holds a value that is not finite")
            continue
        difficult = (entry.findtext("difficult") or "0").strip() == "1"
        yield VocObject(item, name, (xmin, ymin, xmax, ymax), difficult)


def _decide_origin(
    files: Sequence[VocFile], origin: Literal["auto", 0, 1], builder: CocoBuilder
) -> int:
    if origin not in ("auto", 0, 1):
        raise DataError(f"origin={origin!r} is unknown - choose 'auto', 0 or 1")
    if origin != "auto":
        builder.report.notes.append(f"coordinates start at {origin}, as asked for")
        return origin
    smallest = min((min(o.corners) for file in files for o in file.objects), default=1.0)
    found = 0 if smallest < 1 else 1
    builder.report.notes.append(
        f"coordinates start at {found}: the smallest one of all files is {smallest:g}"
    )
    return found


def _find_image(file: VocFile, folder: Path, builder: CocoBuilder) -> Path | None:
    by_stem = find_by_stem(folder, file.path.stem)
    if by_stem is not None:
        return by_stem
    name = normalize_file_name(file.file_name)
    if refuse_file_name(name, folder.resolve()) is None and (folder / name).is_file():
        return folder / name
    builder.report.refuse_image(
        f'{file.path}: neither "{file.path.stem}.*" nor the <filename> "{file.file_name}" is in '
        f"{folder}"
    )
    return None


def _add_file(file: VocFile, image: Path, root: Path, shift: int, builder: CocoBuilder) -> bool:
    """Books a file's objects; False where its image cannot be read."""
    try:
        facts = image_facts(image)
    except DataError as error:
        builder.report.refuse_image(str(error))
        return False
    width, height = facts.width, facts.height
    if file.size != (width, height):
        builder.report.notes.append(
            f"{file.path.name}: <size> {file.size[0]}x{file.size[1]} is not that of the image, "
            f"{width}x{height} is taken from the file"
        )
    builder.add_image(image.relative_to(root).as_posix(), width, height)
    for entry in file.objects:
        repairs = []
        xmin, ymin, xmax, ymax = entry.corners
        if builder.bad_box == "fix" and (xmin > xmax or ymin > ymax):
            xmin, xmax = sorted((xmin, xmax))
            ymin, ymax = sorted((ymin, ymax))
            repairs.append(f"corners {list(entry.corners)} swapped")
        if entry.difficult:
            repairs.append("marked difficult: kept as iscrowd=1, which evaluation ignores")
        box_width, box_height = xmax - xmin, ymax - ymin
        if box_width > 0 and box_height > 0:
            box_width, box_height = box_width + shift, box_height + shift
        box = (xmin - shift, ymin - shift, box_width, box_height)
        builder.add_box(entry.item, entry.name, box, repairs=repairs, crowd=entry.difficult)
    return True
