"""Checks of cell images before anything is trained: every file is decoded once, in one pass."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wbcnets.data.cards.classes import ClassTable, normalize_name
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.cells.manifest import CellImage, CellManifest, path_problem
from wbcnets.data.detection.report import Counts
from wbcnets.data.duplicates.near_duplicates import Fingerprint, fingerprint_image
from wbcnets.errors import DataError
from wbcnets.io.content_cache import shared_cache
from wbcnets.io.images import MAX_PIXELS, image_conversions, read_image

# A cell of fewer pixels shows nothing that its class could be told from
MIN_SIDE = 8
_NAMED_PER_LINE = 5
# To be counted up when readers or fingerprints change
_KIND = f"cell 3 {MAX_PIXELS} {MIN_SIDE}"
_PLACEHOLDER = "<the image>"


@dataclass
class CellReport:
    """What became of every image: used as it is, converted on reading, or dropped.

    Args:
        read: Images found, per class name.
        converted: File -> what the reader does to it, such as "CMYK made RGB".
        dropped: File -> why it is left out.
        notes: What a person should know.
    """

    read: Counter[str] = field(default_factory=Counter)
    converted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """The four numbers, which are checked to add up; "repaired" are the converted ones."""
        n_read, n_dropped = self.read.total(), len(self.dropped)
        n_converted = len(self.converted.keys() - self.dropped.keys())
        return Counts(n_read, n_read - n_converted - n_dropped, n_converted, n_dropped)

    def summary(self) -> str:
        """The counts, then a line per kind of conversion, per image dropped, and per note."""
        lines = [f"images: {self.counts}"]
        kinds: dict[str, list[str]] = defaultdict(list)
        for file, done in self.converted.items():
            for kind in done:
                kinds[kind].append(file)
        lines += [f"  {kind}: {_name_some(files)}" for kind, files in sorted(kinds.items())]
        lines += [f"  dropped: {file}: {reason}" for file, reason in self.dropped.items()]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass(frozen=True)
class CheckedCells:
    """Images that can be used, and what was found on the way.

    Args:
        manifest: The images.
        fingerprints: One per image.
        report: The book-keeping.
    """

    manifest: CellManifest
    fingerprints: tuple[Fingerprint, ...]
    report: CellReport


@dataclass(frozen=True)
class _Inspected:
    sha256: str
    fingerprint: Fingerprint
    conversions: tuple[str, ...]


def check_cells(
    name: str,
    listing: CellListing,
    table: ClassTable,
    *,
    drop_unusable: bool,
    left_out: Sequence[str] = (),
    repair: bool = False,
) -> CheckedCells:
    """Checks the images of a source and makes a manifest of those that can be used.

    Args:
        name: The manifest's name.
        listing: The images; its root becomes the manifest's.
        table: The classes.
        drop_unusable: Whether unreadable and tiny images, and the second of two equal images of one
            class and split, are left out and counted. Otherwise the former are problems, and the
            latter are kept and noted.
        left_out: Classes of the source that are not wanted.
        repair: Whether an image that is in two classes, which is a problem otherwise, is left out
            of both and counted.

    Raises:
        DataError: A class is unknown, one image is in two classes, a name cannot be written, no
            image is left, or (without `drop_unusable`) images cannot be used; all are listed.
    """
    report = CellReport()
    files, problems = _wanted_files(listing, table, left_out, report)
    labels = [table.find(file.class_text) for file in files]
    names = [file.path.relative_to(listing.root).as_posix() for file in files]
    problems += [line for line in map(_name_problem, names) if line]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(_inspect, (file.path for file in files)))
    images: list[CellImage] = []
    inspected: list[_Inspected] = []
    for file, label, file_name, result in zip(files, labels, names, results):
        if label is None:
            continue
        report.read[table.names[label]] += 1
        if isinstance(result, str):
            report.dropped[file_name] = result
            continue
        if result.conversions:
            report.converted[file_name] = result.conversions
        images.append(CellImage(file_name, label, file.split, file.group, result.sha256))
        inspected.append(result)
    if not drop_unusable:
        problems += [f"{file}: {reason}" for file, reason in report.dropped.items()]
    if repair:
        images, inspected = _without_conflicts(images, inspected, table, report)
    kept, more = _without_duplicates(images, inspected, table, report, drop_unusable)
    problems += more
    if not kept and not problems:
        problems.append("no image is left")
    if problems:
        raise DataError(f"{listing.root}: {len(problems)} problems", problems)
    manifest = CellManifest(name, listing.root, table.names, tuple(images[i] for i in kept))
    _note_empty_classes(manifest, report)
    return CheckedCells(manifest, tuple(inspected[i].fingerprint for i in kept), report)


def fingerprint_manifest(manifest: CellManifest) -> tuple[Fingerprint, ...]:
    """Decodes and hashes the images of a manifest.

    Raises:
        DataError: Images cannot be read; all are listed.
    """
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(_inspect, (manifest.path(image) for image in manifest.images)))
    problems = [
        f"{image.file}: {result}"
        for image, result in zip(manifest.images, results)
        if isinstance(result, str)
    ]
    if problems:
        raise DataError(f"{manifest.name}: {len(problems)} images cannot be used", problems)
    return tuple(result.fingerprint for result in results if isinstance(result, _Inspected))


def _wanted_files(
    listing: CellListing, table: ClassTable, left_out: Sequence[str], report: CellReport
) -> tuple[list[CellFile], list[str]]:
    unwanted = {normalize_name(name) for name in left_out}
    files = [f for f in listing.files if normalize_name(f.class_text) not in unwanted]
    if len(files) < len(listing.files):
        count = len(listing.files) - len(files)
        report.notes.append(f"{count} images of {', '.join(left_out)} left out as asked for")
    if listing.ignored:
        report.notes.append(f"passed over: {_name_some(listing.ignored)}")
    problems, texts = [], defaultdict(list)
    for text in listing.class_texts:
        if normalize_name(text) in unwanted:
            continue
        label = table.find(text)
        if label is None:
            problems.append(table.explain(text))
        else:
            texts[label].append(text)
    problems += [
        f"{' and '.join(map(repr, found))} are the same class, {table.names[label]} - merge them"
        for label, found in texts.items()
        if len(found) > 1
    ]
    return files, problems


def _name_problem(name: str) -> str | None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name!a}: the name is not valid UTF-8 - rename the file"
    return path_problem(name)


def _inspect(path: Path) -> _Inspected | str:
    """Decodes an image, or recalls what was found; a text says why it cannot be used."""
    try:
        found = shared_cache().facts(path, _KIND, _find)
        digest = shared_cache().digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if "error" in found:
        return str(found["error"]).replace(_PLACEHOLDER, path.name)
    return _Inspected(digest, Fingerprint.from_json(found), tuple(found["conversions"]))


def _find(path: Path) -> dict[str, Any]:
    try:
        image = read_image(path)
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            reason = f"{width}x{height} px show no cell, at least {MIN_SIDE} px a side are needed"
            return {"error": reason}
        conversions = image_conversions(path)
    except DataError as error:
        text = str(error).removeprefix(f"{path}: ")
        return {"error": text.replace(str(path), _PLACEHOLDER)}
    return {**fingerprint_image(image).as_json(), "conversions": conversions}


def _without_conflicts(
    images: Sequence[CellImage],
    inspected: Sequence[_Inspected],
    table: ClassTable,
    report: CellReport,
) -> tuple[list[CellImage], list[_Inspected]]:
    """The images that are not in two classes; nobody here can tell which of two is right."""
    classes: dict[str, set[int]] = defaultdict(set)
    for image, result in zip(images, inspected):
        classes[result.fingerprint.digest].add(image.label)
    pairs = []
    for image, result in zip(images, inspected):
        found = sorted(classes[result.fingerprint.digest])
        if len(found) == 1:
            pairs.append((image, result))
            continue
        names = " and ".join(table.names[label] for label in found)
        report.dropped[image.file] = f"the same image is in the classes {names}"
    return [image for image, _ in pairs], [result for _, result in pairs]


def _without_duplicates(
    images: Sequence[CellImage],
    inspected: Sequence[_Inspected],
    table: ClassTable,
    report: CellReport,
    drop: bool,
) -> tuple[list[int], list[str]]:
    """Indices of the images to keep, and the images that are in two classes."""
    first: dict[tuple[str, str], int] = {}
    classes: dict[str, int] = {}
    kept, problems, repeated = [], [], []
    for index, (image, result) in enumerate(zip(images, inspected)):
        other = classes.setdefault(result.fingerprint.digest, index)
        if images[other].label != image.label:
            problems.append(
                f"{images[other].file} ({table.names[images[other].label]}) and {image.file} "
                f"({table.names[image.label]}) are the same image in two classes - remove one"
            )
        same = first.setdefault((result.fingerprint.digest, image.split), index)
        if same == index or images[same].label != image.label:
            kept.append(index)
        elif drop:
            report.dropped[image.file] = f"the same image as {images[same].file}"
        else:
            kept.append(index)
            repeated.append(image.file)
    if repeated:
        report.notes.append(f"images that stand in it twice: {_name_some(repeated)}")
    return kept, problems


def _note_empty_classes(manifest: CellManifest, report: CellReport) -> None:
    empty = [n for n, count in zip(manifest.class_names, manifest.counts()) if not count]
    if empty:
        report.notes.append(
            f"classes without an image, which keep their numbers: {', '.join(empty)}"
        )


def _name_some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_NAMED_PER_LINE])
    rest = len(items) - _NAMED_PER_LINE
    return f"{len(items)}: {shown}" + (f" and {rest} more" if rest > 0 else "")
