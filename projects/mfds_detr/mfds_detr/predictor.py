"""A trained MFDS-DETR as a function from images to boxes with classes and scores."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn
from torchvision.ops import nms

from mfds_detr.checkpoint.weight_names import Translation, translate
from mfds_detr.checkpoint.weights import Weights, fit_weights, read_config_of, read_weights
from mfds_detr.config_limits import check_config
from mfds_detr.data.dataset_mapper import build_augmentations
from mfds_detr.modeling.build import build_detector
from wbcnets.engine.device import choose_device
from wbcnets.errors import CheckpointError, ConfigError, explain_missing
from wbcnets.io.images import ImageLike, RgbImage, named_readers
from wbcnets.models.limits import limit_by_weights
from wbcnets.ops.folded_conv import fold_batch_norms

logger = logging.getLogger("mfds_detr.predictor")
DEFAULT_THRESHOLD = 0.3


@dataclass(frozen=True)
class Detections:
    """The cells of one image, best first.

    Attributes:
        boxes: (N, 4) float32 xyxy, in px of the image.
        scores: (N,) float32, in [0, 1].
        labels: (N,) int64.
        class_names: The class of each box, N names.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def to_supervision(self) -> Any:
        """Returns a ``Detections`` of the package supervision.

        Raises:
            MissingPackageError: if supervision is not installed.
        """
        with explain_missing("pip install supervision"):
            import supervision

        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.class_names)},
        )


class LeukocytePredictor:
    """A trained MFDS-DETR that finds the cells of images.

    Args:
        source: A checkpoint of a training, ``wbcnets://NAME``, or the name of shipped weights.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        threshold: The lowest score of a detection, in [0, 1]; None takes the thresholds that were
            chosen for the classes after the training, or ``DEFAULT_THRESHOLD`` if none were.
        config_file: The config of the training; by default the one in the weights, or else
            ``NAME.yaml`` or ``config.yaml`` beside them.

    Attributes:
        class_names: The classes in the order of the labels.
        thresholds: The lowest score of each class, in their order; may be changed.

    Raises:
        CheckpointError: if the weights are missing, damaged, without class names or of another
            model.
        ConfigError: if the config is missing or wrong, or there is no such threshold or device.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        device: str = "auto",
        threshold: float | None = None,
        config_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold {threshold} is not in [0, 1]", setting="threshold")
        chosen = choose_device(device)
        weights = read_weights(source)
        self.class_names = _require_class_names(weights)
        cfg = read_config_of(weights, config_file)
        cfg.MODEL.DEVICE = str(chosen)
        cfg.MODEL.MFDS_DETR.NUM_CLASSES = len(self.class_names)
        cfg.TEST.SCORE_THRESHOLD = 0.0  # ``threshold`` decides
        check_config(cfg)  # its lists of a number per class are for these classes
        self.model: nn.Module = build_detector(cfg, limit_by_weights(weights.state)).eval()
        _load_detector(self.model, weights)
        same = DEFAULT_THRESHOLD if threshold is None else threshold
        own = cfg.TEST.CALIBRATION.THRESHOLDS if threshold is None else []
        self.thresholds = tuple(own or [same] * len(self.class_names))
        example = torch.zeros(3, 64, 64, dtype=torch.uint8)
        fold_batch_norms(self.model, [{"image": example}])
        self._resize = T.AugmentationList(build_augmentations(cfg, is_train=False))
        self._image_format = cfg.INPUT.FORMAT

    def predict(self, images: ImageLike | Sequence[ImageLike]) -> list[Detections]:
        """Returns the cells of each image; no cell twice, see ``one_per_cell``.

        Args:
            images: One or a list of paths, Pillow images or (H, W, 3) uint8 RGB arrays.

        Raises:
            DataError: if an image cannot be read, or an array is no such image.
            CheckpointError: if boxes or scores are not finite.
        """
        return [self._detect(read()) for _, read in named_readers(images)]

    @torch.inference_mode()
    def _detect(self, image: RgbImage) -> Detections:
        pixels = image if self._image_format == "RGB" else image[:, :, ::-1]
        resized = T.AugInput(np.ascontiguousarray(pixels))
        self._resize(resized)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        entry = {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
        found = self.model([entry])[0]["instances"].to("cpu")
        if not (found.pred_boxes.tensor.isfinite().all() and found.scores.isfinite().all()):
            raise CheckpointError("the model's boxes are not finite; its weights are damaged")
        lowest = torch.tensor(self.thresholds, dtype=torch.float64)
        found = one_per_cell(found[found.scores >= lowest[found.pred_classes]])
        labels = found.pred_classes.numpy()
        names = tuple(self.class_names[label] for label in labels)
        return Detections(found.pred_boxes.tensor.numpy(), found.scores.numpy(), labels, names)


def one_per_cell(found: Instances, max_iou: float = 0.7) -> Instances:
    """Keeps the best of detections that overlap so far that they are the same cell.

    The scores of different classes are independent, and two queries may find the same cell, so a
    count would include it twice. COCO evaluation gets all detections, as is usual for DETR.

    Args:
        found: Detections.
        max_iou: IoU above which two boxes are one cell; red cells that overlap stay below it.
    """
    return found[nms(found.pred_boxes.tensor, found.scores, max_iou)]


def _require_class_names(weights: Weights) -> tuple[str, ...]:
    if not weights.class_names:
        raise CheckpointError(
            f"{weights.source}: holds no class names, so its labels have no meaning; use a "
            "checkpoint of a training, such as model_best.pth"
        )
    return weights.class_names


def _load_detector(model: nn.Module, weights: Weights) -> None:
    """Fills the whole model; unlike in training, no tensor may keep its initialization."""
    own = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    translation = translate(weights.state, [name.removeprefix("backbone.") for name in own])
    if translation.absent:
        raise CheckpointError(
            f"{weights.source}: holds weights in {translation.source} names to start a training "
            "from, but no trained MFDS-DETR; train first, then use model_best.pth"
        )
    for name, tensor in translation.state.items():
        count = len(weights.class_names)
        if name.startswith("detector.class_embed.") and tensor.shape[:1] != (count,):
            raise CheckpointError(
                f"{weights.source}: {name} has the shape {tuple(tensor.shape)}, but {count} "
                "classes are named; the file contradicts itself, save it again"
            )
    for line in fit_weights(
        model, Translation(translation.source, translation.state, ()), weights.source
    ):
        logger.info(line)
