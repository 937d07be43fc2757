"""Detection data in COCO's format: one model of the annotations and one validator for all uses.

Training, evaluation and the commands read annotations through `load_coco`, so that a box which is
left out is left out everywhere, and is named. All faults of a file are found in one pass.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wbcnets.data.detection.box_checks import BAD_BOX_CHOICES, BadBox
from wbcnets.data.detection.coco_checks import (
    ImageRecord,
    note_near_duplicates,
    read_annotations,
    read_categories,
    read_images,
)
from wbcnets.data.detection.report import ConversionReport, Counts
from wbcnets.errors import DataError
from wbcnets.io.strict_json import read_json, write_json


@dataclass
class CocoImage:
    """One image and its boxes.

    Args:
        id: The JSON's own image id.
        file_name: Absolute path.
        height: In px.
        width: In px.
        boxes: `(N, 4)` float32 `[x, y, width, height]` in px, inside the image; N may be 0.
        labels: `(N,)` int64, contiguous class indices from 0.
        crowd: `(N,)` bool; True boxes are ignored in matching and evaluation.
        areas: `(N,)` float32 in px^2: of the mask where the JSON says so, else of the box.
        annotation_ids: `(N,)` int64, the JSON's own.
    """

    id: int
    file_name: str
    height: int
    width: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    annotation_ids: npt.NDArray[np.int64]


@dataclass
class CocoDataset:
    """A checked detection set.

    Args:
        source: The JSON file, for messages.
        image_root: Absolute folder of the images.
        class_names: Names in the order of the labels.
        category_ids: The JSON's own ids in the same order, that is, ascending.
        images: All images; those without boxes are kept as negatives.
        counts: What became of the annotations.
        image_counts: What became of the images.
        repaired: One line per repaired annotation or image: file, item, what was done.
        dropped: One line per dropped annotation: file, item, why.
        dropped_images: One line per dropped image.
        notes: What a person should know and nothing was changed for.
    """

    source: str
    image_root: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[CocoImage]
    counts: Counts
    image_counts: Counts
    repaired: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_images: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def box_counts(self) -> dict[str, int]:
        """Boxes per class name, crowd boxes left out."""
        counts: Counter[int] = Counter()
        for image in self.images:
            counts.update(image.labels[~image.crowd].tolist())
        return {name: counts[label] for label, name in enumerate(self.class_names)}

    @property
    def n_negatives(self) -> int:
        """Images without a box."""
        return sum(len(image.boxes) == 0 for image in self.images)

    @property
    def max_boxes(self) -> int:
        """The most boxes in one image, to be compared with queries and maximum detections."""
        return max((len(image.boxes) for image in self.images), default=0)

    def summary(self) -> str:
        """A few lines: images, classes, and what became of the annotations, exceptions by name."""
        classes = ", ".join(f"{name} {count}" for name, count in self.box_counts.items())
        lines = [
            f"{self.source}: {len(self.images)} images, {self.n_negatives} of them without boxes, "
            f"at most {self.max_boxes} boxes in one",
            f"  images: {self.image_counts}",
            f"  annotations: {self.counts}",
            f"  boxes per class: {classes}",
        ]
        lines += [f"  dropped image: {line}" for line in self.dropped_images]
        lines += [f"  dropped: {line}" for line in self.dropped]
        lines += [f"  repaired: {line}" for line in self.repaired]
        lines += [f"  note: {line}" for line in self.notes]
        return "\n".join(lines)

    def require_classes(self, class_names: Sequence[str]) -> None:
        """Checks that the labels mean what another set or a checkpoint means by them.

        Raises:
            DataError: Names or their order differ.
        """
        if tuple(class_names) != self.class_names:
            raise DataError(
                f"{self.source}: the classes are {list(self.class_names)}, expected "
                f"{list(class_names)} in this order - use annotation files with the same categories"
            )

    def to_json(self) -> dict[str, Any]:
        """The cleaned ground truth as a COCO object.

        Category ids, category names and image ids are the original ones; annotation ids count from
        1, because COCO's evaluation takes the id 0 for "no match". Only boxes are kept of the
        annotations.
        """
        annotations: list[dict[str, Any]] = []
        for image in self.images:
            for index in range(len(image.boxes)):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image.id,
                        "category_id": self.category_ids[int(image.labels[index])],
                        "bbox": [round(float(value), 3) for value in image.boxes[index]],
                        "area": round(float(image.areas[index]), 3),
                        "iscrowd": int(image.crowd[index]),
                    }
                )
        return {
            "info": {"description": f"Checked copy of {Path(self.source).name}"},
            "images": [
                {
                    "id": image.id,
                    "file_name": Path(image.file_name).relative_to(self.image_root).as_posix(),
                    "width": image.width,
                    "height": image.height,
                }
                for image in self.images
            ],
            "annotations": annotations,
            "categories": [
                {"id": category, "name": name}
                for category, name in zip(self.category_ids, self.class_names)
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()`; a crash leaves the old file or the new one, never half of it."""
        write_json(self.to_json(), path)


def load_coco(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    bad_box: BadBox = "drop",
    check_images: bool = True,
    strict: bool = False,
    repair: bool = False,
) -> CocoDataset:
    """Reads and checks a COCO detection file.

    Args:
        json_file: The annotations.
        image_root: Folder that every `file_name` is relative to and must stay inside.
        bad_box: What happens to boxes without area or outside the image ("drop" or "error") and
            whether swapped corners and boxes far over the border are mended ("fix"); see
            `wbcnets.data.detection.box_checks.check_box`.
        check_images: Whether all image files are decoded and their sizes compared; what was found
            is kept by content, so that the next time costs little.
        strict: Whether repairs, drops and notes are problems too.
        repair: Whether annotations and images that would be problems are left out and listed, and
            annotation ids that stand twice are numbered anew.

    Returns:
        The dataset. Segmentations are not read.

    Raises:
        DataError: The file cannot be read, or it has problems: all of them are in `problems`, each
            with file and item.
    """
    data = read_json(json_file)
    return parse_coco(
        data,
        image_root,
        source=os.fspath(json_file),
        bad_box=bad_box,
        check_images=check_images,
        strict=strict,
        repair=repair,
    )


def parse_coco(
    data: dict[str, Any],
    image_root: str | os.PathLike[str],
    *,
    source: str,
    bad_box: BadBox = "drop",
    check_images: bool = True,
    strict: bool = False,
    repair: bool = False,
) -> CocoDataset:
    """Checks a COCO object that is already in memory; see `load_coco`.

    Args:
        data: The COCO object.
        image_root: Folder of the images.
        source: What the messages call the object.
        bad_box: As for `load_coco`.
        check_images: As for `load_coco`.
        strict: As for `load_coco`.
        repair: As for `load_coco`.

    Raises:
        DataError: The object has problems.
    """
    if bad_box not in BAD_BOX_CHOICES:
        raise DataError(f"bad_box={bad_box!r} is unknown - choose from {list(BAD_BOX_CHOICES)}")
    if not Path(image_root).is_dir():
        raise DataError(f"{source}: the image folder {os.fspath(image_root)} does not exist")
    report = ConversionReport(repair=repair)
    root = Path(image_root).resolve()
    categories = read_categories(data, report)
    records = read_images(data, root, check_images, report)
    read_annotations(data, records, categories, bad_box, report)
    note_near_duplicates(records.values(), report)
    if report.n_read and not report.problems and not report.kept:
        report.problems.append("no box is left after the drops - nothing can be learned from it")
    image_repairs = [f"{r.item}: {'; '.join(r.repairs)}" for r in records.values() if r.repairs]
    problems = list(report.problems)
    if strict:
        left_out = report.dropped_images + report.dropped
        problems += [f"{line} (strict)" for line in left_out + report.repaired]
        problems += [f"{line} (strict)" for line in image_repairs + report.notes]
    if problems:
        raise DataError(
            f"{source}: {len(problems)} problems in the annotations, nothing was loaded",
            [f"{Path(source).name}: {problem}" for problem in problems],
        )
    name = Path(source).name
    return CocoDataset(
        source=source,
        image_root=Path(image_root).absolute(),
        class_names=tuple(categories.values()),
        category_ids=tuple(categories),
        images=[_to_image(record, Path(image_root).absolute()) for record in records.values()],
        counts=report.counts,
        image_counts=Counts(
            report.n_images,
            len(records) - len(image_repairs),
            len(image_repairs),
            len(report.dropped_images),
        ),
        repaired=[f"{name}: {line}" for line in report.repaired + image_repairs],
        dropped=[f"{name}: {line}" for line in report.dropped],
        dropped_images=[f"{name}: {line}" for line in report.dropped_images],
        notes=[f"{name}: {line}" for line in report.notes],
    )


def _to_image(record: ImageRecord, root: Path) -> CocoImage:
    boxes = record.boxes
    return CocoImage(
        id=record.id,
        file_name=str(root / record.file_name),
        height=record.height,
        width=record.width,
        boxes=np.array([item.box for item in boxes], dtype=np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in boxes], dtype=np.int64),
        crowd=np.array([item.crowd for item in boxes], dtype=np.bool_),
        areas=np.array([item.area for item in boxes], dtype=np.float32),
        annotation_ids=np.array([item.annotation_id for item in boxes], dtype=np.int64),
    )
