"""Reads Pascal VOC annotations: one XML file per image, as labelImg writes them.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from wbcnets.data.detection.box_checks import NUMBER, Box, Policy
from wbcnets.data.detection.builder import BoxEntry, DatasetBuilder, ImageEntry, smear_facts
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.image_paths import find_by_stem, normalize_file_name, resolve_file_name
from wbcnets.errors import DataError
from wbcnets.io.image_files import read_regular_file

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocObject:
    """One object of a file.

    Args:
        item: File and position, for messages.
        name: Its class.
        xyxy: The corners as written, in the file's own origin; the reason if they are unusable.
        difficult: Whether it is marked so.
    """

    item: str
    name: str
    xyxy: Box | str
    difficult: bool


@dataclass
class VocFile:
    """The contents of one XML file."""

    path: Path
    file_name: str
    size: tuple[int, int]
    objects: list[VocObject]


def load_voc(
    annotation_files: Sequence[str | os.PathLike[str]],
    image_folder: str | os.PathLike[str],
    class_names: Sequence[str] = (),
    origin: Literal["auto", 0, 1] = "auto",
    *,
    image_root: str | os.PathLike[str] | None = None,
    policy: Policy = "drop",
) -> CocoDataset:
    """Reads and checks Pascal VOC files.

    Args:
        annotation_files: The XML files, one per image.
        image_folder: Folder of the images, found by the XML file's stem, then by its
            ``<filename>``.
        class_names: The classes; other names are problems, with the nearest class suggested. By
            default those of the files.
        origin: Coordinate of the first pixel. "auto" takes 0 if any corner of the set is below 1,
            else 1; the notes of the report state it.
        image_root: Folder that file names are relative to, ``image_folder`` by default.
        policy: How far to go with faulty items, see ``wbcnets.data.detection.box_checks.Policy``.

    Returns:
        The dataset. Objects marked difficult become crowd boxes, which evaluation ignores.

    Raises:
        DataError: if there are problems in any file; all of them are listed.
    """
    folder = Path(image_folder)
    builder = DatasetBuilder(
        f"{len(annotation_files)} Pascal VOC files", image_root or folder, policy
    )
    files = []
    for path in map(Path, annotation_files):
        builder.report.n_images += 1
        try:
            files.append(_parse_file(path))
        except DataError as error:
            builder.refuse_image(str(error))
    builder.set_classes(class_names, (entry.name for file in files for entry in file.objects))
    shift = _decide_origin(files, origin, builder)
    for file in files:
        try:
            path = _find_image(file, folder)
            facts = smear_facts(path)
        except DataError as error:
            builder.refuse_image(str(error))
            for entry in file.objects:
                builder.skip_box(entry.item, entry.name, "its image is left out")
            continue
        if file.size != facts.size:
            builder.report.notes.append(
                f"{file.path.name}: <size> {file.size[0]}x{file.size[1]} is not that of the image; "
                f"{facts.width}x{facts.height} is taken from the file"
            )
        image = builder.add_image(ImageEntry(str(file.path), builder.relative(path)), facts)
        for entry in file.objects:
            _add_object(entry, shift, image, builder)
    return builder.finish()


def read_xml(path: Path) -> Element:
    """Parses a small XML file that may come from anyone.

    Raises:
        DataError: if the file is missing, over 1 MiB, in an unknown encoding, not XML (with line
            and column), has a document type or entities, or is nested deeper than 32 elements.
    """
    data = read_regular_file(path, MAX_BYTES, "the XML file")
    declared = _ENCODING.match(data.removeprefix(codecs.BOM_UTF8))
    encoding = declared.group(1).decode() if declared else "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        # Decoded here because expat knows few encodings, and none of those of Chinese tools
        text = data.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    except (LookupError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be decoded as {encoding} ({error})") from error
    try:
        element = fromstring(text, forbid_dtd=True)
    except UnicodeError as error:  # half of a pair of surrogates
        raise DataError(f"{path}: cannot be decoded as {encoding} ({error})") from error
    except ParseError as error:
        line, column = error.position
        raise DataError(f"{path}:{line}:{column + 1}: not valid XML ({error})") from error
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


def _parse_file(path: Path) -> VocFile:
    element = read_xml(path)
    if element.tag != "annotation":
        raise DataError(f"{path}: the top element is <{element.tag}>, expected <annotation>")
    size = (_integer(element.findtext("size/width")), _integer(element.findtext("size/height")))
    objects = [
        _parse_object(f"{path.name}: object[{index}]", entry)
        for index, entry in enumerate(element.findall("object"))
    ]
    return VocFile(path, element.findtext("filename") or "", size, objects)


def _integer(text: str | None) -> int:
    """Returns a positive integer, or 0 for anything else."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0


def _number(text: str | None) -> float:
    """Returns a decimal number.

    Raises:
        ValueError: if it is none.
    """
    if not text or not NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    return float(text)


def _parse_object(item: str, element: Element) -> VocObject:
    name = element.findtext("name") or ""
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    xyxy: Box | str
    try:
        x1, y1, x2, y2 = map(_number, texts)
        xyxy = x1, y1, x2, y2
        if not all(abs(value) <= 1e9 for value in xyxy):
            xyxy = f"bndbox {texts!s:.200} holds a value that is not finite"
    except ValueError:
        xyxy = f"bndbox {dict(zip(_CORNERS, texts))!s:.200} needs four numbers"
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return VocObject(f'{item} "{name}"', name, xyxy, difficult)


def _decide_origin(
    files: Sequence[VocFile], origin: Literal["auto", 0, 1], builder: DatasetBuilder
) -> int:
    if origin not in ("auto", 0, 1):
        raise DataError(f"origin={origin!r} is unknown - choose 'auto', 0 or 1")
    if origin != "auto":
        builder.report.notes.append(f"coordinates start at {origin}, as asked for")
        return origin
    boxes = [entry.xyxy for file in files for entry in file.objects]
    smallest = min((min(box) for box in boxes if not isinstance(box, str)), default=1.0)
    found = 0 if smallest < 1 else 1
    builder.report.notes.append(
        f"coordinates start at {found}: the smallest one of all files is {smallest:g}"
    )
    return found


def _find_image(file: VocFile, folder: Path) -> Path:
    by_stem = find_by_stem(folder, file.path.stem)
    if by_stem is not None:
        return by_stem
    name = normalize_file_name(file.file_name)
    resolved = resolve_file_name(name, folder.resolve())
    if isinstance(resolved, Path) and resolved.is_file():
        return folder / name
    raise DataError(
        f'{file.path}: neither "{file.path.stem}.*" nor the <filename> '
        f'"{file.file_name:.80}" is in {folder}'
    )


def _add_object(entry: VocObject, shift: int, image: ImageEntry, builder: DatasetBuilder) -> None:
    if isinstance(entry.xyxy, str):
        builder.refuse_box(entry.item, entry.name, entry.xyxy)
        return
    repairs = []
    x1, y1, x2, y2 = entry.xyxy
    # Before the check of the box, since its size counts the last pixel
    if builder.fixes and (x1 > x2 or y1 > y2):
        x1, x2 = sorted((x1, x2))
        y1, y2 = sorted((y1, y2))
        repairs.append(f"corners {list(entry.xyxy)} swapped")
    if entry.difficult:
        repairs.append("marked difficult: kept as iscrowd=1, which is not scored")
    width, height = x2 - x1, y2 - y1
    if width > 0 and height > 0:
        width, height = width + shift, height + shift
    box = (x1 - shift, y1 - shift, width, height)
    builder.add_box(image, BoxEntry(entry.item, entry.name, box, entry.difficult, repairs=repairs))
