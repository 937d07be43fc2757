"""Builds a ``CocoDataset`` from boxes of any format: the one place that decides about a box."""

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wbcnets.data.cards.classes import explain_class_name, normalize_name
from wbcnets.data.detection.box_checks import POLICIES, Box, Policy, check_box
from wbcnets.data.detection.dataset import CocoDataset, CocoImage
from wbcnets.data.detection.report import DetectionReport
from wbcnets.errors import DataError
from wbcnets.io.image_facts import Fingerprint, ImageFacts, image_facts
from wbcnets.io.image_files import natural_order

NEAR_DUPLICATE_IOU = 0.95
# An image with a shorter side (px) shows no cell
SMALL_SIDE = 16


@dataclass(slots=True)
class BoxEntry:
    """One box of a source.

    Args:
        item: File and position of the box, for messages.
        name: Its class.
        box: ``(x, y, width, height)`` in px, 0-based.
        crowd: Whether evaluation ignores it.
        area: In px^2, such as a mask's; that of the box by default.
        id: The source's own; counted from 1 by default.
        repairs: What the reader already did to it.
    """

    item: str
    name: str
    box: Box
    crowd: bool = False
    area: float | None = None
    id: int | None = None
    repairs: Sequence[str] = ()


@dataclass(slots=True)
class ImageEntry:
    """One image of a source, with the boxes that were kept.

    Args:
        item: File and position of the image, for messages.
        file_name: Path relative to the image root, with slashes.
        width: In px.
        height: In px.
        id: The source's own; counted from 1 by default.
        repairs: What the reader already did to the entry.
        boxes: The boxes.
        resolved: The same for all spellings of one file; empty if the reader does not tell.
        fingerprint: Of the file, if it was read.
    """

    item: str
    file_name: str
    width: int = 0
    height: int = 0
    id: int | None = None
    repairs: list[str] = field(default_factory=list)
    boxes: list[BoxEntry] = field(default_factory=list)
    resolved: str = ""
    fingerprint: Fingerprint | None = None


class DatasetBuilder:
    """Collects images and boxes, decides about each, and keeps the account.

    Args:
        source: The annotations, for messages.
        image_root: Folder that every file name is relative to.
        policy: How far to go with faulty items, see ``wbcnets.data.detection.box_checks.Policy``.
        categories: Category id -> class name.

    Attributes:
        report: The account so far.

    Raises:
        DataError: if the policy is unknown or the folder does not exist.
    """

    def __init__(
        self,
        source: str,
        image_root: str | os.PathLike[str],
        policy: Policy,
        categories: Mapping[int, str] | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise DataError(f"policy={policy!r} is unknown - choose from {list(POLICIES)}")
        if not os.path.isdir(image_root):
            raise DataError(f"{source}: the image folder {os.fspath(image_root)} does not exist")
        self.source = source
        self.image_root = Path(image_root)
        self.policy = policy
        self.categories = dict(categories or {})
        self.report = DetectionReport()
        self._images: list[ImageEntry] = []
        self._seen: set[int] = set()
        self._conversions: dict[str, list[str]] = {}

    @property
    def fixes(self) -> bool:
        """Whether negative sizes and any overhang are fixed."""
        return self.policy in ("fix", "skip")

    @property
    def skips(self) -> bool:
        """Whether a box or image that would be a problem is left out instead."""
        return self.policy == "skip"

    def set_classes(self, class_names: Sequence[str], found: Iterable[str] = ()) -> None:
        """Numbers the classes from 1: those given, else those found.

        Args:
            class_names: The classes in order; other names are problems.
            found: The names in the source, from which the classes are taken if none are given. Two
                spellings of one class are a problem.

        Raises:
            DataError: if a class is given twice.
        """
        if len(set(class_names)) != len(class_names):
            raise DataError(f"the classes {list(class_names)} must be distinct")
        names = list(class_names)
        odd = [problem for problem in map(explain_class_name, names) if problem]
        if odd:
            raise DataError(f"{self.source}: {len(odd)} class names cannot be used", odd)
        if not names:
            names = sorted(Counter(found), key=natural_order)
            self.report.problems += _spelling_problems(names)
            self.report.problems += [p for p in map(explain_class_name, names) if p]
        self.categories = dict(enumerate(names, start=1))

    def relative(self, image: Path) -> str:
        """Returns the file name of an image: relative to the root, with slashes."""
        return image.relative_to(self.image_root).as_posix()

    def add_image(self, image: ImageEntry, facts: ImageFacts | None = None) -> ImageEntry:
        """Adds an image; the facts about its file give its size if it has none."""
        if facts is not None:
            if image.width <= 0 or image.height <= 0:
                image.width, image.height = facts.width, facts.height
            small = min(facts.width, facts.height) < SMALL_SIDE
            image.fingerprint = facts.fingerprint
            for kind in (*facts.conversions, *[f"smaller than {SMALL_SIDE} px"] * small):
                self._conversions.setdefault(kind, []).append(image.file_name)
        if image.id is None:
            image.id = len(self._images) + 1
        self._images.append(image)
        return image

    def refuse_image(self, line: str) -> None:
        """Books an image that cannot be used: as a problem, or as dropped."""
        (self.report.dropped_images if self.skips else self.report.problems).append(line)

    def add_box(self, image: ImageEntry, entry: BoxEntry) -> None:
        """Decides about a well-formed box of an image and books it."""
        if entry.name not in self.categories.values():
            self.refuse_box(entry.item, entry.name, _explain_class(entry.name, self.categories))
            return
        verdict = check_box(entry.box, image.width, image.height, self.policy)
        if verdict.action == "refuse":
            self.refuse_box(entry.item, entry.name, verdict.reason)
            return
        if verdict.action == "drop":
            self.drop_box(entry.item, entry.name, verdict.reason)
            return
        first = self._find_equal(image, entry, verdict.box)
        if first is not None:
            self.drop_box(entry.item, entry.name, f"exact duplicate of {first.item}")
            return
        self.report.read[entry.name] += 1
        self.report.kept[entry.name] += 1
        repairs = [*entry.repairs, *([verdict.reason] if verdict.reason else [])]
        if repairs:
            self.report.repaired.append(f"{entry.item}: {'; '.join(repairs)}")
        else:
            self.report.n_used += 1
        area = verdict.box[2] * verdict.box[3]
        # A mask's area is smaller than its box; any other value is not an area of this box
        if verdict.action == "keep" and entry.area is not None and 0 < entry.area < area:
            area = entry.area
        if entry.id is None:
            entry.id = self.report.kept.total()
        entry.box, entry.area = verdict.box, area
        image.boxes.append(entry)

    def _find_equal(self, image: ImageEntry, entry: BoxEntry, box: Box) -> BoxEntry | None:
        """Returns the earlier box of an image that equals a new one, or None."""
        # Numbers in place of the boxes: millions of these take gigabytes
        key = hash((image.item, entry.name, entry.crowd, box))
        if key not in self._seen:
            self._seen.add(key)
            return None
        new = (entry.name, entry.crowd, box)
        return next((old for old in image.boxes if (old.name, old.crowd, old.box) == new), None)

    def drop_box(self, item: str, name: str, reason: str) -> None:
        """Books a box that is left out under any policy but "refuse"."""
        self.report.read[name] += 1
        self.report.dropped.append(f"{item}: {reason}")

    def refuse_box(self, item: str, name: str, *reasons: str) -> None:
        """Books a box that cannot be used: as problems, or as dropped."""
        if self.skips:
            self.drop_box(item, name, "; ".join(reasons))
        else:
            self.report.read[name] += 1
            self.report.problems += [f"{item}: {reason}" for reason in reasons]

    def skip_box(self, item: str, name: str, reason: str) -> None:
        """Books a box whose image was refused; without "skip" the image is problem enough."""
        if self.skips:
            self.drop_box(item, name, reason)

    def finish(self, prefix: str = "") -> CocoDataset:
        """Returns the dataset.

        Args:
            prefix: Put before every line of the report.

        Raises:
            DataError: if there are problems; all of them are listed.
        """
        report = self.report
        for image in self._images:
            report.notes += _near_duplicates(image)
            if image.repairs:
                report.repaired_images.append(f"{image.item}: {'; '.join(image.repairs)}")
        for kind, files in sorted(self._conversions.items()):
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            report.notes.append(f"{len(files)} images: {kind} ({', '.join(files[:3])}{more})")
        if not report.problems and not report.kept:
            report.problems.append("no usable box in it - nothing can be learned from it")
        for lines in (report.problems, report.repaired, report.dropped, report.repaired_images,
                      report.dropped_images, report.notes):  # fmt: skip
            lines[:] = [prefix + line for line in lines]
        if report.problems:
            raise DataError(
                f"{self.source}: {len(report.problems)} problems, nothing was loaded",
                report.problems,
            )
        ids = sorted(self.categories)
        labels = {self.categories[number]: label for label, number in enumerate(ids)}
        return CocoDataset(
            source=self.source,
            image_root=self.image_root.absolute(),
            class_names=tuple(labels),
            category_ids=tuple(ids),
            images=[_to_image(image, self.image_root.absolute(), labels) for image in self._images],
            report=report,
        )


def smear_facts(path: Path) -> ImageFacts:
    """Returns the facts about an image of a dataset, without those that smears do not need.

    Raises:
        DataError: if it cannot be read; the message names it.
    """
    return image_facts(path).without_thumbnail()


def _explain_class(name: str, categories: Mapping[int, str]) -> str:
    plain = {known.casefold(): known for known in categories.values()}
    near = difflib.get_close_matches(name.strip().casefold(), plain, n=1)
    hint = f'did you mean "{plain[near[0]]}"? ' if near else ""
    return f'class "{name}" is unknown; {hint}The classes are {list(categories.values())}'


def _spelling_problems(names: Sequence[str]) -> list[str]:
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(normalize_name(name), []).append(name)
    problems = [
        f"{' and '.join(map(repr, found))} are the same class, spelled in {len(found)} ways - "
        "choose one"
        for found in spellings.values()
        if len(found) > 1
    ]
    return problems + ["objects without a name - give them one"] * ("" in spellings)


def _near_duplicates(image: ImageEntry) -> list[str]:
    """Names the boxes of one class that cover nearly the same pixels."""
    if len(image.boxes) < 2:
        return []
    boxes = np.array([entry.box for entry in image.boxes])
    names = np.array([entry.name for entry in image.boxes])
    ends = boxes[:, :2] + boxes[:, 2:]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(ends[:, None], ends[None])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = boxes[:, 2] * boxes[:, 3]
    near = shared > NEAR_DUPLICATE_IOU * (areas[:, None] + areas[None] - shared)
    near &= names[:, None] == names[None]
    return [
        f"{image.boxes[first].item} and {image.boxes[second].item} cover nearly the same box "
        f"(IoU over {NEAR_DUPLICATE_IOU})"
        for first, second in zip(*np.nonzero(np.triu(near, k=1)))
    ]


def _to_image(image: ImageEntry, root: Path, labels: Mapping[str, int]) -> CocoImage:
    boxes = image.boxes
    return CocoImage(
        id=image.id or 0,
        file_name=str(root / image.file_name),
        height=image.height,
        width=image.width,
        boxes=np.array([entry.box for entry in boxes], dtype=np.float32).reshape(-1, 4),
        labels=np.array([labels[entry.name] for entry in boxes], dtype=np.int64),
        crowd=np.array([entry.crowd for entry in boxes], dtype=np.bool_),
        areas=np.array([entry.area for entry in boxes], dtype=np.float32),
        annotation_ids=np.array([entry.id for entry in boxes], dtype=np.int64),
        fingerprint=image.fingerprint,
    )
