"""Pastes cells of one smear into the empty places of another, to train on more of the rare ones.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021, for boxes: a cell is about an ellipse, and the field around it one color, so that a soft
ellipse and a shift of the colors leave no edge. Cells come from images of the same size, which
mostly means the same laboratory.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
_TRIES = 12
_SMALLEST = 8  # px, of a cell to paste
_MARGIN = 0.15  # of a cell's sides, around its box
_MOST_COVERED = 0.05  # of the place for a cell, by other cells


class DonorImage(NamedTuple):
    """An annotated image whose cells may be pasted."""

    file_name: str
    width: int
    height: int
    boxes: npt.NDArray[np.float32]  # (N, 4) xyxy in px
    labels: npt.NDArray[np.int64]  # (N,)


class CellPaste:
    """Pastes cells of a donor image, the rarer their class, the more often.

    Args:
        donors: The training images.
        read_image: Returns the (H, W, 3) pixels of a file.
        probability: Of pasting anything into an image.
        most: The most cells that are pasted into an image.
    """

    def __init__(
        self,
        donors: Sequence[DonorImage],
        read_image: Callable[[str], Image],
        probability: float = 0.5,
        most: int = 6,
    ) -> None:
        self.read_image = read_image
        self.probability = probability
        self.most = most
        counts = Counter(label for donor in donors for label in donor.labels.tolist())
        self.weights = {label: count**-0.5 for label, count in counts.items()}
        # Images with a cell of a class, by size
        self.holders: dict[tuple[int, int], dict[int, list[DonorImage]]] = {}
        for donor in donors:
            for label in set(donor.labels.tolist()):
                of_size = self.holders.setdefault((donor.width, donor.height), {})
                of_size.setdefault(label, []).append(donor)

    def __call__(
        self,
        image: Image,
        boxes: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        random: np.random.RandomState,
    ) -> tuple[Image, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns an image with further cells, and all its boxes and labels.

        Args:
            image: (H, W, 3).
            boxes: (N, 4) xyxy in px.
            labels: (N,).
            random: Decides.
        """
        height, width = image.shape[:2]
        holders = self.holders.get((width, height))
        if not holders or random.random_sample() >= self.probability:
            return image, boxes, labels
        wanted = self._draw(list(holders), random)
        donor = holders[wanted][random.randint(len(holders[wanted]))]
        source, image = self.read_image(donor.file_name), image.copy()
        chances = np.array([self.weights[label] for label in donor.labels.tolist()])
        for _ in range(random.randint(1, self.most + 1)):
            index = random.choice(len(chances), p=chances / chances.sum())
            cell = _cut(source, donor.boxes[index])
            place = None if cell is None else _find_place(cell, (height, width), boxes, random)
            if cell is None or place is None:
                continue
            box = _blend(image, cell, place)
            boxes = np.concatenate([boxes, box[None]])
            labels = np.append(labels, donor.labels[index])
        return image, boxes, labels

    def _draw(self, labels: Sequence[int], random: np.random.RandomState) -> int:
        chances = np.array([self.weights[label] for label in labels])
        return labels[random.choice(len(labels), p=chances / chances.sum())]


class _Cell(NamedTuple):
    pixels: Image  # with a margin
    margin: tuple[int, int]  # in x and y


def _cut(image: Image, box: npt.NDArray[np.float32]) -> _Cell | None:
    """Returns a cell with its surroundings; None if it is cut off or tiny."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.round(box).astype(int)
    margin = (max(2, round((right - left) * _MARGIN)), max(2, round((bottom - top) * _MARGIN)))
    left, right, top, bottom = (
        left - margin[0],
        right + margin[0],
        top - margin[1],
        bottom + margin[1],
    )
    is_whole = left >= 0 and top >= 0 and right <= width and bottom <= height
    if not is_whole or min(box[2] - box[0], box[3] - box[1]) < _SMALLEST:
        return None
    return _Cell(image[top:bottom, left:right], margin)


def _find_place(
    cell: _Cell,
    size: tuple[int, int],
    boxes: npt.NDArray[np.float32],
    random: np.random.RandomState,
) -> tuple[int, int] | None:
    """Returns the left upper corner of a place that other cells hardly cover, or None."""
    high, wide = cell.pixels.shape[:2]
    if high >= size[0] or wide >= size[1]:
        return None
    for _ in range(_TRIES):
        x, y = random.randint(size[1] - wide), random.randint(size[0] - high)
        sides = np.minimum(boxes[:, 2:], (x + wide, y + high)) - np.maximum(boxes[:, :2], (x, y))
        if sides.clip(min=0).prod(axis=1).sum() <= _MOST_COVERED * wide * high:
            return x, y
    return None


def _blend(image: Image, cell: _Cell, place: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Blends a cell into an image, in place; returns its box."""
    (x, y), (high, wide) = place, cell.pixels.shape[:2]
    target = image[y : y + high, x : x + wide]
    grid_y, grid_x = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    radius = np.hypot(grid_x, grid_y)
    # 1 within the ellipse of the box, 0 at the edge of the cut
    inner = 1 / (1 + 2 * _MARGIN)
    mask = np.clip((1 - radius) / (1 - inner), 0, 1)[..., None]
    ring = radius > 1
    shift = np.median(target[ring], axis=0) - np.median(cell.pixels[ring], axis=0)
    mixed = mask * (cell.pixels + shift) + (1 - mask) * target
    image[y : y + high, x : x + wide] = np.clip(np.round(mixed), 0, 255).astype(np.uint8)
    left, top = x + cell.margin[0], y + cell.margin[1]
    corners = (left, top, x + wide - cell.margin[0], y + high - cell.margin[1])
    return np.array(corners, dtype=np.float32)
