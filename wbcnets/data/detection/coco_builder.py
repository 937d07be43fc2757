"""What the converters share: boxes of any source are judged, counted and written as COCO."""

import difflib
from collections.abc import Sequence
from typing import Any

from wbcnets.data.detection.box_checks import BadBox, Box, check_box
from wbcnets.data.detection.report import ConversionReport
from wbcnets.errors import DataError


class CocoBuilder:
    """Collects images and boxes into a COCO object and keeps the books.

    Args:
        class_names: The classes; category ids are 1, 2, ... in this order.
        bad_box: See `wbcnets.data.detection.box_checks.check_box`.
        repair: Whether boxes and files that would be problems are left out and listed.
    """

    def __init__(
        self, class_names: Sequence[str], bad_box: BadBox = "drop", repair: bool = False
    ) -> None:
        if len(set(class_names)) != len(class_names) or not class_names:
            raise DataError(f"the classes {list(class_names)} must be distinct and at least one")
        self.class_names = tuple(class_names)
        self.bad_box = bad_box
        self.report = ConversionReport(repair=repair)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._boxes: dict[tuple[str, Box], str] = {}

    def add_image(self, file_name: str, width: int, height: int) -> None:
        """Starts an image; the boxes added next belong to it.

        Args:
            file_name: Path relative to the image root, with slashes.
            width: In px.
            height: In px.
        """
        self._images.append(
            {"id": len(self._images) + 1, "file_name": file_name, "width": width, "height": height}
        )
        self._boxes = {}

    def add_box(
        self, item: str, name: str, box: Box, *, repairs: Sequence[str] = (), crowd: bool = False
    ) -> None:
        """Judges a box of the current image and books it.

        Args:
            item: File and place of the box, for messages.
            name: Its class.
            box: `(x, y, width, height)` in px, 0-based.
            repairs: What was already done to it.
            crowd: Whether evaluation must ignore it.
        """
        self.report.read[name] += 1
        refusal = self.refuse_class(name)
        if refusal:
            self.report.refuse_box(item, [refusal])
            return
        image = self._images[-1]
        verdict = check_box(box, image["width"], image["height"], self.bad_box)
        if verdict.action == "error":
            self.report.refuse_box(item, [verdict.reason])
            return
        if verdict.action == "drop":
            self.report.dropped.append(f"{item}: {verdict.reason}")
            return
        first = self._boxes.setdefault((name, verdict.box), item)
        if first != item:
            self.report.dropped.append(f"{item}: exact duplicate of {first}")
            return
        reasons = [*repairs, verdict.reason] if verdict.reason else list(repairs)
        if reasons:
            self.report.repaired.append(f"{item}: {'; '.join(reasons)}")
        else:
            self.report.n_used += 1
        self._keep(name, verdict.box, crowd)

    def _keep(self, name: str, box: Box, crowd: bool) -> None:
        self.report.kept[name] += 1
        rounded = [round(value, 4) for value in box]
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": self._images[-1]["id"],
                "category_id": self.class_names.index(name) + 1,
                "bbox": rounded,
                "area": round(box[2] * box[3], 4),
                "iscrowd": int(crowd),
            }
        )

    def drop(self, item: str, name: str, reason: str) -> None:
        """Books a box that has no rectangle to judge."""
        self.report.read[name] += 1
        self.report.dropped.append(f"{item}: {reason}")

    def reject(self, item: str, name: str, reason: str) -> None:
        """Books a box that has no rectangle to judge because it is written wrongly."""
        self.report.read[name] += 1
        self.report.refuse_box(item, [reason])

    def problem(self, item: str, reason: str) -> None:
        """Adds what must stop the conversion at its end."""
        self.report.problems.append(f"{item}: {reason}")

    def refuse_class(self, name: str) -> str | None:
        """Says what is wrong with a class name, or None for a known one."""
        if name in self.class_names:
            return None
        plain = {known.casefold(): known for known in self.class_names}
        near = difflib.get_close_matches(name.strip().casefold(), plain, n=1)
        hint = f'did you mean "{plain[near[0]]}"? ' if near else ""
        return f'class "{name}" is unknown; {hint}The classes are {list(self.class_names)}'

    def finish(self, source: str) -> tuple[dict[str, Any], ConversionReport]:
        """Returns the COCO object and the report.

        Args:
            source: What was converted, for the error.

        Raises:
            DataError: Problems were found; all are listed.
        """
        if not self._images and not self.report.problems:
            self.report.problems.append("there is no image to convert - check the folder")
        if self.report.problems:
            raise DataError(
                f"{source}: {len(self.report.problems)} problems, nothing was converted",
                self.report.problems,
            )
        self.report.check()
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        return {
            "info": {"description": f"Converted from {source}"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }, self.report
