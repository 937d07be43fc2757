"""Checks of cell images before they are used: every file is decoded once, in one pass."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wbcnets.data.cards.classes import ClassTable, normalize_name
from wbcnets.data.cells.listing import CellFile, CellListing
from wbcnets.data.cells.manifest import CellImage, CellManifest, path_problem
from wbcnets.data.detection.box_checks import Policy
from wbcnets.data.detection.report import Counts
from wbcnets.errors import DataError
from wbcnets.io.image_facts import Fingerprint, ImageFacts, image_facts
from wbcnets.io.parallel import map_images, try_images

# Fewer pixels do not show the class of a cell
MIN_SIDE = 8
_NAMED_PER_LINE = 5


@dataclass
class CellReport:
    """The account of all images: used as they are, converted by the reader, or dropped.

    Args:
        read: Class name -> images found.
        converted: File -> conversions, such as "CMYK made RGB".
        dropped: File -> reason.
        notes: Facts to know that changed no image.
    """

    read: Counter[str] = field(default_factory=Counter)
    converted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """The four numbers, which must add up; converted images count as repaired."""
        n_read, n_dropped = self.read.total(), len(self.dropped)
        n_converted = len(self.converted.keys() - self.dropped.keys())
        return Counts(n_read, n_read - n_converted - n_dropped, n_converted, n_dropped)

    def summary(self) -> str:
        """Returns the counts, then one line per kind of conversion, dropped image and note."""
        lines = [f"images: {self.counts}"]
        kinds: dict[str, list[str]] = defaultdict(list)
        for file, conversions in self.converted.items():
            for kind in conversions:
                kinds[kind].append(file)
        lines += [f"  {kind}: {_name_some(files)}" for kind, files in sorted(kinds.items())]
        lines += [f"  dropped: {file}: {reason}" for file, reason in self.dropped.items()]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass(frozen=True)
class CheckedCells:
    """Images that can be used, and the account of all that were found.

    Args:
        manifest: The images.
        fingerprints: One per image.
        report: The account.
    """

    manifest: CellManifest
    fingerprints: tuple[Fingerprint, ...]
    report: CellReport

    def select(self, indices: Iterable[int]) -> "CheckedCells":
        """Returns the images of some indices, in this order."""
        pairs = [(self.manifest.images[index], self.fingerprints[index]) for index in indices]
        manifest = replace(self.manifest, images=tuple(image for image, _ in pairs))
        return replace(self, manifest=manifest, fingerprints=tuple(entry for _, entry in pairs))


def check_cells(
    name: str,
    listing: CellListing,
    table: ClassTable,
    *,
    policy: Policy,
    left_out: Sequence[str] = (),
) -> CheckedCells:
    """Checks the images of a source and makes a manifest of the usable ones.

    Args:
        name: The name of the manifest.
        listing: The images; its root becomes that of the manifest.
        table: The classes.
        policy: With "refuse", unreadable and tiny images are problems, and the second of two equal
            images of a class and split is noted. Otherwise they are dropped. With "skip", an image
            that is in two classes is dropped from both. Otherwise it is a problem.
        left_out: Classes of the source to leave out.

    Raises:
        DataError: if a class is unknown, a file name is not valid, no image is left, or images are
            problems by the policy; all are listed.
    """
    report = CellReport()
    files, problems = _select_classes(listing, table, left_out, report)
    names = [file.path.relative_to(listing.root).as_posix() for file in files]
    problems += [line for line in map(_name_problem, names) if line]
    images: list[CellImage] = []
    fingerprints: list[Fingerprint] = []
    results = try_images(_inspect, [file.path for file in files], name)
    for file, file_name, result in zip(files, names, results):
        label = table.find(file.class_text)
        if label is None:
            continue
        report.read[table.names[label]] += 1
        if isinstance(result, DataError):
            report.dropped[file_name] = str(result).removeprefix(f"{file.path}: ")
            continue
        if result.conversions:
            report.converted[file_name] = result.conversions
        images.append(CellImage(file_name, label, file.split, file.group, result.sha256))
        fingerprints.append(result.fingerprint)
    if policy == "refuse":
        problems += [f"{file}: {reason}" for file, reason in report.dropped.items()]
    manifest = CellManifest(name, listing.root, table.names, tuple(images))
    checked = CheckedCells(manifest, tuple(fingerprints), report)
    problems += _drop_conflicts(checked, policy == "skip")
    _drop_duplicates(checked, policy != "refuse")
    checked = checked.select(i for i, e in enumerate(images) if e.file not in report.dropped)
    if not checked.manifest.images and not problems:
        problems.append("no image is left")
    if problems:
        raise DataError(f"{listing.root}: {len(problems)} problems", problems)
    empty = [n for n, count in zip(table.names, checked.manifest.counts()) if not count]
    if empty:
        report.notes.append(f"classes without images, which keep their labels: {', '.join(empty)}")
    return checked


def fingerprint_manifest(manifest: CellManifest) -> tuple[Fingerprint, ...]:
    """Returns the fingerprint of each image; every image is decoded.

    Raises:
        DataError: if images cannot be read; all are listed.
    """

    paths = [manifest.path(image) for image in manifest.images]
    return tuple(facts.fingerprint for facts in map_images(_inspect, paths, manifest.name))


def _select_classes(
    listing: CellListing, table: ClassTable, left_out: Sequence[str], report: CellReport
) -> tuple[list[CellFile], list[str]]:
    """Returns the files of wanted classes, and the problems of class names."""
    unwanted = {normalize_name(name) for name in left_out}
    files = [f for f in listing.files if normalize_name(f.class_text) not in unwanted]
    if len(files) < len(listing.files):
        count = len(listing.files) - len(files)
        report.notes.append(f"{count} images of {', '.join(left_out)} left out, as requested")
    if listing.ignored:
        report.notes.append(f"ignored: {_name_some(listing.ignored)}")
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


def _inspect(path: Path) -> ImageFacts:
    """Returns the facts of a cell image.

    Raises:
        DataError: if it cannot be read, or is too small to show a cell.
    """
    facts = image_facts(path)
    if min(facts.size) < MIN_SIDE:
        size = f"{facts.width}x{facts.height} px"
        raise DataError(f"{path}: {size} are too few - each side needs {MIN_SIDE} px")
    return facts


def _drop_conflicts(checked: CheckedCells, drop: bool) -> list[str]:
    """Drops the images that are in two classes, or returns them as problems."""
    images, class_names = checked.manifest.images, checked.manifest.class_names
    same: dict[str, list[CellImage]] = defaultdict(list)
    for image, fingerprint in zip(images, checked.fingerprints):
        same[fingerprint.digest].append(image)
    problems = []
    for first, *others in same.values():
        conflicts = [image for image in others if image.label != first.label]
        if conflicts and drop:
            labels = sorted({first.label, *(image.label for image in conflicts)})
            names = " and ".join(class_names[label] for label in labels)
            for image in (first, *others):
                checked.report.dropped[image.file] = f"the same image is in the classes {names}"
        elif conflicts:
            problems += [
                f"{first.file} ({class_names[first.label]}) and {image.file} "
                f"({class_names[image.label]}) are the same image in two classes - remove one"
                for image in conflicts
            ]
    return problems


def _drop_duplicates(checked: CheckedCells, drop: bool) -> None:
    """Drops or notes all but the first of equal images of one split."""
    first: dict[tuple[str, str], str] = {}
    repeated = []
    for image, fingerprint in zip(checked.manifest.images, checked.fingerprints):
        original = first.setdefault((fingerprint.digest, image.split), image.file)
        if original == image.file or image.file in checked.report.dropped:
            continue
        repeated.append(image.file)
        if drop:
            checked.report.dropped[image.file] = f"the same image as {original}"
    if repeated and not drop:
        checked.report.notes.append(f"duplicates within a class: {_name_some(repeated)}")


def _name_some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_NAMED_PER_LINE])
    rest = len(items) - _NAMED_PER_LINE
    return f"{len(items)}: {shown}" + (f" and {rest} more" if rest > 0 else "")
