"""The images of a step whose numbers were not finite, kept for a look."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from PIL import Image

from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.drawing import contact_sheet, draw_boxes


def _as_picture(image: torch.Tensor) -> np.ndarray:
    """`(3, H, W)` of any type and any values -> `(H, W, 3)` uint8."""
    pixels = image.float().nan_to_num(0, 255, 0).clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def keep_bad_step(
    folder: Path, batch: Sequence[dict[str, Any]], iteration: int, class_names: Sequence[str]
) -> Path:
    """Writes `bad_step.pth` and `bad_step.png`, one pair of files per process.

    Args:
        folder: The output folder.
        batch: What the model was given.
        iteration: When.
        class_names: In the order of the labels.

    Returns:
        The `.pth` file: a dictionary of "iteration", "images" (each `(3, H, W)` uint8), "boxes"
        (corners in px), "labels" and "files", for `torch.load(..., weights_only=True)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank = comm.get_rank()
    name = f"bad_step_process{rank}" if comm.get_world_size() > 1 else "bad_step"
    boxes = [entry["instances"].gt_boxes.tensor for entry in batch]
    labels = [entry["instances"].gt_classes for entry in batch]
    files = [str(entry.get("file_name", "")) for entry in batch]
    data = {
        "iteration": iteration,
        "images": [entry["image"] for entry in batch],
        "boxes": boxes,
        "labels": labels,
        "files": files,
    }
    path = folder / f"{name}.pth"
    write_atomically(path, lambda file: torch.save(data, file))
    drawn = [
        draw_boxes(
            _as_picture(entry["image"]),
            np.nan_to_num(corners.numpy()),
            classes.numpy(),
            class_names,
        )
        for entry, corners, classes in zip(batch, boxes, labels)
    ]
    sheet = Image.fromarray(contact_sheet(drawn, 4, [Path(file).name for file in files]))
    write_atomically(folder / f"{name}.png", lambda file: sheet.save(file, "PNG"))
    return path
