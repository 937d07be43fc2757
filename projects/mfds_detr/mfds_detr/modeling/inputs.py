"""Checks of the batches that ``MFDSDETR`` gets; they wait for no device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from wbcnets.errors import DataError


def read_images(entries: Sequence[Mapping[str, Any]], finite: bool) -> list[Tensor]:
    """Returns the image of each entry, (3, H, W).

    Args:
        entries: The batch.
        finite: Whether images of floating point are looked through for NaN.

    Raises:
        DataError: if an entry holds no such image.
    """
    if not isinstance(entries, (list, tuple)):
        raise DataError(f"the batch is a {type(entries).__name__}; give a list of dictionaries")
    images = []
    for index, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, Mapping) else None
        if not isinstance(image, Tensor):
            raise DataError(
                f"{_name(index, entry)}: its 'image' is a {type(image).__name__}; give a tensor "
                "(3, H, W) of pixels in [0, 255]"
            )
        numbers = image.dtype != torch.bool and not image.is_complex()
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not numbers:
            raise DataError(
                f"{_name(index, entry)}: its 'image' is {image.dtype} {tuple(image.shape)}; give "
                "(3, H, W) of pixels in [0, 255]"
            )
        if finite and image.is_floating_point() and not image.isfinite().all():
            raise DataError(f"{_name(index, entry)}: its 'image' holds NaN or infinite pixels")
        images.append(image)
    return images


def read_instances(entries: Sequence[Mapping[str, Any]], num_classes: int) -> list[Instances]:
    """Returns the annotated objects of each entry.

    Args:
        entries: The batch, whose images are fine.
        num_classes: Number of classes.

    Raises:
        DataError: if the batch is empty, an entry holds no objects (an empty ``Instances`` is
            fine), or a class or a box is out of range.
    """
    if not entries:
        raise DataError("the batch is empty; a training step needs at least one image")
    found = []
    for index, entry in enumerate(entries):
        instances = entry.get("instances")
        has_both = isinstance(instances, Instances) and all(
            instances.has(field) for field in ("gt_boxes", "gt_classes")
        )
        if not has_both:
            raise DataError(
                f"{_name(index, entry)}: training needs 'instances' with gt_boxes and gt_classes, "
                f"got {type(instances).__name__}; for an image without cells give empty ones"
            )
        problem = _find_problem(instances, num_classes)
        if problem:
            raise DataError(f"{_name(index, entry)}: {problem}")
        found.append(instances)
    return found


def _find_problem(instances: Instances, num_classes: int) -> str:
    """Returns what is wrong with classes or boxes, "" if nothing is."""
    classes, boxes = instances.gt_classes, instances.gt_boxes.tensor
    if classes.is_floating_point() or classes.dtype == torch.bool or classes.ndim != 1:
        return f"its gt_classes are {classes.dtype} {tuple(classes.shape)}, expected (N,) in int64"
    if classes.device.type != "cpu":
        return ""  # it would stall the GPU; the dataset was checked when it was read
    wrong = classes[(classes < 0) | (classes >= num_classes)].tolist()
    if wrong:
        return f"its gt_classes hold {wrong[:8]}, but there are {num_classes} classes from 0"
    height, width = instances.image_size
    limits = boxes.new_tensor([width, height, width, height])
    # A crop may cut a box at a fraction of a pixel
    inside = ((boxes >= -1) & (boxes <= limits + 1)).all(dim=1)
    bad = boxes[~(inside & (boxes[:, 2:] >= boxes[:, :2]).all(dim=1))].tolist()
    if bad:
        return f"its box {bad[0]} is no xyxy box in its image of {width}x{height} px"
    return ""


def _name(index: int, entry: Any) -> str:
    file = entry.get("file_name") if isinstance(entry, Mapping) else None
    return str(file or f"image {index} of the batch")
