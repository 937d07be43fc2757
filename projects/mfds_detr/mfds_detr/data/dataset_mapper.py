"""Maps a dataset record to the model's input: reads, augments and resizes the image."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from wbcnets.data.detection.augmentation import BoxAugmentation, create_augmentation
from wbcnets.data.detection.cell_paste import CellPaste, DonorImage
from wbcnets.io.images import read_image

# The field's background is brighter, so that a model can tell the two apart
_CANVAS_GRAY = 128

logger = logging.getLogger("mfds_detr.data.dataset_mapper")


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resize, which leaves no pixel of an image of 10000x1 px: here at least one."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Returns the transform of one image (H, W, 3)."""
        return _keep_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's resize to about a size, which keeps at least one pixel, too."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Returns the transform of one image (H, W, 3)."""
        return _keep_a_pixel(super().get_transform(image))


def _keep_a_pixel(transform: T.Transform) -> T.Transform:
    if isinstance(transform, T.ResizeTransform):
        transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
    return transform


class SmearMapper:
    """Reads the image of a record, augments it with its boxes, and converts both to tensors.

    Args:
        augmentations: Detectron2's augmentations, applied last.
        box_augmentation: An albumentations pipeline, applied before them, or None.
        image_format: "RGB" or "BGR", the channel order that the backbone expects.
        is_train: Whether the boxes are returned.
        cell_paste: Pastes further cells, before all others, or None.
    """

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        box_augmentation: BoxAugmentation | None = None,
        image_format: str = "RGB",
        is_train: bool = True,
        cell_paste: CellPaste | None = None,
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.box_augmentation = box_augmentation
        self.image_format = image_format
        self.is_train = is_train
        self.cell_paste = cell_paste

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> "SmearMapper":
        """Builds the mapper of a config and logs the active augmentations."""
        augmentations = build_augmentations(cfg, is_train)
        box_augmentation = None
        if is_train:
            settings = cfg.INPUT.ALBUMENTATIONS
            box_augmentation = create_augmentation(settings.PRESET, settings.TRANSFORMS)
            logger.info(
                f"Augmentations in training: {box_augmentation or 'no albumentations'}; "
                f"then {augmentations}"
            )
        paste = _build_cell_paste(cfg) if is_train and cfg.INPUT.CELL_PASTE else None
        return cls(augmentations, box_augmentation, cfg.INPUT.FORMAT, is_train, paste)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns a copy of the record with ``image`` (3, H, W) and, in training, ``instances``.

        Raises:
            DataError: if the image cannot be read; the message names it.
        """
        record = copy.copy(record)
        image = read_image(record["file_name"])
        annotations = record.pop("annotations", [])
        # A crowd is not a single object
        boxes, labels = boxes_and_labels([a for a in annotations if not a.get("iscrowd", 0)])
        if self.cell_paste is not None:
            random = np.random.RandomState(np.random.randint(2**31))
            image, boxes, labels = self.cell_paste(image, boxes, labels, random)
        if self.box_augmentation is not None:
            # Detectron2 seeds NumPy per worker; albumentations ignores that
            seed = int(np.random.randint(2**31))
            image, boxes, kept = self.box_augmentation(image, boxes, seed)
            labels = labels[kept]
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        # A copy, because Detectron2's transforms write into the image
        augmented = T.AugInput(np.array(image, order="C"), boxes=boxes)
        self.augmentations(augmented)
        height, width = augmented.image.shape[:2]
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        record["image"] = torch.from_numpy(pixels)
        if self.is_train:
            record["instances"] = _instances(augmented.boxes, labels, (height, width))
        return record


def _build_cell_paste(cfg: CfgNode) -> CellPaste:
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    donors = []
    for record in records:
        boxes, labels = boxes_and_labels([a for a in record["annotations"] if not a["iscrowd"]])
        donors.append(
            DonorImage(record["file_name"], record["width"], record["height"], boxes, labels)
        )
    return CellPaste(donors, read_image, cfg.INPUT.CELL_PASTE)


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Returns Detectron2's augmentations: crop and flips in training, then the resize."""
    if not is_train:
        return [ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    augmentations: list[T.Augmentation] = []
    if tuple(cfg.INPUT.CROP_FRACTION) != (1.0, 1.0):
        crop = T.RandomCrop("relative_range", tuple(cfg.INPUT.CROP_FRACTION))
        augmentations.append(T.RandomApply(crop, prob=cfg.INPUT.CROP_PROBABILITY))
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    if cfg.INPUT.VERTICAL_FLIP and cfg.INPUT.RANDOM_FLIP != "vertical":
        augmentations.append(T.RandomFlip(horizontal=False, vertical=True))
    if any(cfg.INPUT.CANVAS):
        height, width = cfg.INPUT.CANVAS
        low, high = cfg.INPUT.CANVAS_SCALE
        augmentations.append(ResizeScale(low, high, height, width))
        augmentations.append(T.FixedSizeCrop((height, width), pad_value=_CANVAS_GRAY))
        return augmentations
    # Last, because the resized image is read-only and the flips warn about that
    sizes = (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    augmentations.append(ResizeShortestEdge(*sizes))
    return augmentations


def boxes_and_labels(annotations: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the xyxy boxes (N, 4) and labels (N,) of Detectron2's annotations."""
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    labels = [annotation["category_id"] for annotation in annotations]
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _instances(boxes: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> Instances:
    """Returns the objects that a crop left in the image, clipped to it."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_boxes.clip(size)
    instances.gt_classes = torch.as_tensor(labels)
    return instances[instances.gt_boxes.nonempty(threshold=1.0)]
