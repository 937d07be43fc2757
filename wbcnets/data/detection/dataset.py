"""Detection data in memory: images with boxes, and the report of how they were read."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wbcnets.data.detection.report import Counts, DetectionReport
from wbcnets.errors import DataError
from wbcnets.io.image_facts import Fingerprint
from wbcnets.io.strict_json import write_json


@dataclass
class CocoImage:
    """One image and its boxes.

    Args:
        id: The source's own image id.
        file_name: Absolute path.
        height: In px.
        width: In px.
        boxes: ``(N, 4)`` float32 ``[x, y, width, height]`` in px, inside the image; N may be 0.
        labels: ``(N,)`` int64, contiguous class indices from 0.
        crowd: ``(N,)`` bool; matching and evaluation ignore boxes that are True.
        areas: ``(N,)`` float32 in px^2: of the mask if the source has one, else of the box.
        annotation_ids: ``(N,)`` int64, the source's own.
        fingerprint: Of the file when it was checked; None if it was not.
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
    fingerprint: Fingerprint | None = None

    def select(self, chosen: npt.NDArray[np.bool_]) -> "CocoImage":
        """Returns the image with the boxes chosen by ``(N,)`` bool alone."""
        arrays = ("boxes", "labels", "crowd", "areas", "annotation_ids")
        return replace(self, **{name: getattr(self, name)[chosen] for name in arrays})


@dataclass
class CocoDataset:
    """A checked detection set.

    Args:
        source: The annotations, for messages.
        image_root: Absolute folder of the images.
        class_names: Names in the order of the labels.
        category_ids: The source's own ids in the same order, that is, ascending.
        images: All images; those without boxes are kept as negatives.
        report: The account of every box and image.
    """

    source: str
    image_root: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[CocoImage]
    report: DetectionReport

    @property
    def counts(self) -> Counts:
        """Boxes read, used, repaired and dropped; checked to add up."""
        return self.report.counts

    @property
    def image_counts(self) -> Counts:
        """Images read, used, repaired and dropped; checked to add up."""
        repaired, dropped = len(self.report.repaired_images), len(self.report.dropped_images)
        return Counts(self.report.n_images, len(self.images) - repaired, repaired, dropped)

    @property
    def box_counts(self) -> dict[str, int]:
        """Boxes per class name, without crowd boxes."""
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
        """The most boxes in one image, to compare with queries and maximum detections."""
        return max((len(image.boxes) for image in self.images), default=0)

    def summary(self) -> str:
        """Returns images, classes and counts in a few lines, and all exceptions by name."""
        classes = ", ".join(f"{name} {count}" for name, count in self.box_counts.items())
        lines = [
            f"{self.source}: {len(self.images)} images, {self.n_negatives} of them without boxes, "
            f"at most {self.max_boxes} boxes in one",
            f"  images: {self.image_counts}",
            f"  boxes: {self.counts}",
            f"  boxes per class: {classes}",
        ]
        return "\n".join(lines + self.report.lines())

    def require_classes(self, class_names: Sequence[str]) -> None:
        """Checks that the labels mean the same as in another set or a checkpoint.

        Raises:
            DataError: if names or their order differ.
        """
        if tuple(class_names) != self.class_names:
            raise DataError(
                f"{self.source}: the classes are {list(self.class_names)}, expected "
                f"{list(class_names)} in this order - use annotation files with the same categories"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the cleaned ground truth as a COCO object with boxes only.

        Category ids, category names and image ids are the source's own; annotation ids count from
        1, because COCO's evaluation takes the id 0 for "no match".
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

    def split(self, fraction: float) -> tuple["CocoDataset", "CocoDataset"]:
        """Returns two parts; the second has about a fraction of the images.

        The names of the files decide, so that an image stays in its part when others come or go.

        Args:
            fraction: In (0, 1).

        Raises:
            DataError: if a part would be empty.
        """
        second = [_name_hash(Path(image.file_name).name) < fraction for image in self.images]
        if all(second) or not any(second):
            raise DataError(
                f"{self.source}: {len(self.images)} images are too few to hold {fraction:.0%} out"
            )
        parts = [
            [image for image, chosen in zip(self.images, second) if chosen == wanted]
            for wanted in (False, True)
        ]
        whole = [line.strip() for line in self.report.lines()]
        return self._part(parts[0], whole), self._part(parts[1], [])

    def _part(self, images: list[CocoImage], notes: list[str]) -> "CocoDataset":
        """Returns a dataset of some of the images, all of them read as they are."""
        labels = [self.class_names[label] for image in images for label in image.labels]
        boxes = Counter(labels)
        report = DetectionReport(boxes, boxes, len(labels), n_images=len(images), notes=notes)
        return replace(self, images=images, report=report)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes ``to_json()``; a crash leaves the old file or the new one, never half of it."""
        write_json(self.to_json(), path)


def _name_hash(name: str) -> float:
    """Returns a number in [0, 1) that follows from a name alone."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
