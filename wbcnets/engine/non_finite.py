"""Training steps whose loss or gradients are not finite: undone, counted and saved to look at."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.drawing import contact_sheet, draw_boxes

logger = logging.getLogger(__name__)

_MAX_DRAWN = 32


class BufferBackup:
    """Copies running statistics and centers, to undo a step that is not finite.

    Args:
        modules: Modules whose floating-point buffers are copied.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._buffers = [
            buffer
            for module in modules
            for buffer in module.buffers()
            if buffer.is_floating_point()
        ]
        self._copies = [buffer.detach().clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Copies the current values."""
        self._each(lambda buffer, copy: copy.copy_(buffer))

    def restore(self) -> None:
        """Puts the copied values back."""
        self._each(lambda buffer, copy: buffer.copy_(copy))

    @torch.no_grad()
    def _each(self, move: Callable[[Tensor, Tensor], Any]) -> None:
        for buffer, copy in zip(self._buffers, self._copies):
            move(buffer, copy)


class BadStepCounter:
    """Counts skipped steps; ends a run that skips too many in a row, or all.

    Args:
        limit: Skipped steps in a row that end the run.

    Attributes:
        total: Skipped steps.
        consecutive: Those since the last step that changed the weights.
        taken: Steps that changed the weights.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.consecutive = 0
        self.taken = 0

    def add(self, message: str, advice: str, stop: bool = False) -> None:
        """Counts a skipped step and logs it.

        Args:
            message: The step and what is wrong with it.
            advice: What to try if the run ends here.
            stop: End the run at once.

        Raises:
            FloatingPointError: if this step reaches the limit, or with ``stop``.
        """
        self.total += 1
        self.consecutive += 1
        if self.consecutive < self.limit and not stop:
            logger.warning("%s. The step was skipped", message)
            return
        raise FloatingPointError(
            f"{message}. This is bad step {self.consecutive} in a row (the limit is {self.limit}): "
            f"{advice}, or look at the images"
        )

    def end_row(self) -> None:
        """Records a step that changed the weights."""
        self.consecutive = 0
        self.taken += 1

    def check_learned(self, steps: int, advice: str) -> None:
        """Checks that a run that ends has changed the weights.

        Args:
            steps: Steps of the run.
            advice: What to try.

        Raises:
            FloatingPointError: if there were steps, and every one was skipped.
        """
        if steps and not self.taken:
            raise FloatingPointError(
                f"the loss or its gradients were not finite in all {steps} steps: the weights did "
                f"not change, and the run learned nothing; {advice}, or look at the images"
            )

    def state_dict(self) -> dict[str, int]:
        """Returns the counts for a checkpoint."""
        return {"total": self.total, "consecutive": self.consecutive, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes the counts from a checkpoint."""
        self.total, self.consecutive = state["total"], state["consecutive"]
        # Checkpoints of earlier versions do not count them
        self.taken = state.get("taken", 1)


def is_overflow(scaler: torch.amp.GradScaler) -> bool:
    """Returns whether the scale of float16 can be what made gradients infinite.

    Such a step is no fault: the scaler skips it, and halves its scale.
    """
    return scaler.is_enabled() and scaler.get_scale() >= 1


def save_bad_step(
    path: Path,
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    files: Sequence[str],
    class_names: Sequence[str],
    details: Mapping[str, float],
    boxes_xyxy: Sequence[Tensor] | None = None,
) -> None:
    """Saves the batch of a skipped step: a ``.pth`` file, and a ``.png`` to look at.

    Args:
        path: The two files without their suffix.
        images: (3, H, W) each, before normalization, in [0, 255].
        labels: Class index per image, or (N,) per image with boxes.
        files: File per image.
        class_names: Names in the order of the labels.
        details: More entries of the ``.pth`` file, such as epoch and loss.
        boxes_xyxy: (N, 4) per image in px; None for images of one cell each.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    batch = {"images": list(images), "labels": list(labels), "files": list(files)}
    data: dict[str, Any] = {**batch, **details}
    pictures = [_to_picture(image) for image in images[:_MAX_DRAWN]]
    captions = [Path(file).name for file in files[:_MAX_DRAWN]]
    if boxes_xyxy is None:
        captions = [f"{class_names[int(i)]} ({name})" for i, name in zip(labels, captions)]
    else:
        data["boxes"] = list(boxes_xyxy)
        pictures = [
            draw_boxes(picture, np.nan_to_num(boxes.numpy()), classes.numpy(), class_names)
            for picture, boxes, classes in zip(pictures, boxes_xyxy, labels)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".pth"), lambda file: torch.save(data, file))
    sheet = Image.fromarray(contact_sheet(pictures, 4, captions, tile_width=320))
    write_atomically(path.with_suffix(".png"), lambda file: sheet.save(file, "PNG"))


def _to_picture(image: Tensor) -> np.ndarray:
    """(3, H, W) of any type and values -> (H, W, 3) uint8."""
    pixels = image.float().nan_to_num(0, 255, 0).clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
