"""Draws random images of a dataset with their boxes on one sheet."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wbcnets.data.detection.dataset import CocoDataset, CocoImage
from wbcnets.errors import ConfigError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.drawing import RgbImage, contact_sheet, draw_boxes, scale_to_width
from wbcnets.io.images import read_image
from wbcnets.io.outputs import claim_file

_MARKER = "wbcnets preview"
TILE_WIDTH = 480


def preview(dataset: CocoDataset, count: int = 9, seed: int = 0, columns: int = 3) -> RgbImage:
    """Draws random images of a dataset with their boxes.

    Args:
        dataset: A checked dataset.
        count: How many images, at most all of them.
        seed: Which ones.
        columns: Images in a row.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        DataError: if an image cannot be read, or ``count`` is not positive.
    """
    chosen = random.Random(seed).sample(dataset.images, min(max(count, 0), len(dataset.images)))
    pictures = [_draw(image, dataset.class_names) for image in chosen]
    captions = [Path(image.file_name).name for image in chosen]
    return contact_sheet(pictures, columns, captions, tile_width=TILE_WIDTH)


def save_preview(dataset: CocoDataset, path: Path, count: int = 9, seed: int = 0) -> int:
    """Writes the sheet of ``preview`` as a PNG file; returns the number of images on it.

    Raises:
        ConfigError: if the path has another suffix, or a file of others would be replaced.
    """
    claim_preview(path, [dataset.source])
    sheet = Image.fromarray(preview(dataset, count, seed))
    info = PngInfo()
    info.add_text("Software", _MARKER)
    write_atomically(path, lambda file: sheet.save(file, "PNG", pnginfo=info))
    return min(count, len(dataset.images))


def claim_preview(path: Path, inputs: Sequence[str] = (), setting: str = "output") -> None:
    """Checks the file of ``save_preview`` before any work.

    Args:
        path: The file.
        inputs: Files that are read.
        setting: The Python argument that names the file.

    Raises:
        ConfigError: if ``save_preview`` would refuse the file.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: must end in .png", setting=setting)
    claim_file(path, inputs, _MARKER, setting)


def _draw(image: CocoImage, class_names: tuple[str, ...]) -> RgbImage:
    # Scaled before drawing, so that lines and legends are alike on images of different sizes.
    scaled = scale_to_width(read_image(image.file_name), TILE_WIDTH)
    scale = scaled.shape[1] / image.width
    boxes_xyxy = np.hstack([image.boxes[:, :2], image.boxes[:, :2] + image.boxes[:, 2:]])
    return draw_boxes(
        scaled,
        boxes_xyxy * scale,
        image.labels,
        class_names,
        show_labels=False,
        legend=True,
    )
