"""MFDS-DETR as a Detectron2 meta-architecture: from ``Instances`` to tensors and back."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

from mfds_detr.modeling.backbone import fold_frozen_norms
from mfds_detr.modeling.criterion import SetCriterion
from mfds_detr.modeling.deformable_detr_head import DeformableDETRHead
from mfds_detr.modeling.inputs import read_images, read_instances
from mfds_detr.modeling.matcher import HungarianMatcher
from mfds_detr.modeling.padding import pyramids_by_size
from mfds_detr.modeling.position_encoding import create_position_encoding
from mfds_detr.modeling.transformer import DeformableTransformer, LayerSizes
from wbcnets.errors import ConfigError
from wbcnets.layers.extra_stage import ExtraStage
from wbcnets.layers.necks import create_neck
from wbcnets.ops.autocast import autocast_off


@META_ARCH_REGISTRY.register()
class MFDSDETR(nn.Module):
    """Backbone, extra stage, neck, deformable transformer and heads (figure 1 of the paper).

    Args:
        backbone: Returns maps by name, finest first.
        extra_stage: The block after the last map, or None.
        neck: Maps the backbone's maps to a pyramid of one width.
        detector: Queries, transformer and heads.
        criterion: The loss.
        pixel_mean: Mean of each channel, on the scale of the input images (0 to 255).
        pixel_std: Standard deviation of each channel.
        detections_per_image: The most detections in an image.
        score_threshold: The lowest score of a detection.
        nms_iou: IoU above which the weaker of two detections of a class is dropped; 0 keeps all. A
            fully trained DETR needs no NMS; one with two stages and a short training does.
        calibration: Slopes and offsets that the logits of the classes go through, K numbers each;
            empty for none.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    score_slopes: Tensor
    score_offsets: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        extra_stage: nn.Module | None,
        neck: nn.Module,
        detector: DeformableDETRHead,
        criterion: SetCriterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        detections_per_image: int = 100,
        score_threshold: float = 0.0,
        nms_iou: float = 0.0,
        calibration: tuple[Sequence[float], Sequence[float]] = ((), ()),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.extra_stage = extra_stage
        self.neck = neck
        self.detector = detector
        self.criterion = criterion
        self.detections_per_image = detections_per_image
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        # Channels-last maps become tokens without a copy, and convolutions are faster on them
        for module in (backbone, extra_stage, neck):
            if module is not None:
                module.to(memory_format=torch.channels_last)
        slopes, offsets = calibration
        self.register_buffer("score_slopes", torch.tensor(slopes or [1.0]), persistent=False)
        self.register_buffer("score_offsets", torch.tensor(offsets or [0.0]), persistent=False)
        mean, std = torch.tensor([pixel_mean, pixel_std])[..., None, None]
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Returns the constructor's arguments from a Detectron2 config."""
        model = cfg.MODEL.MFDS_DETR
        if model.NUM_CLASSES < 1:
            raise ConfigError(
                "MODEL.MFDS_DETR.NUM_CLASSES=0 takes the classes from the training set, but none "
                "is registered; name one in DATASETS.TRAIN or set the number"
            )
        backbone = build_backbone(cfg)
        fold_frozen_norms(backbone)
        channels = [shape.channels for shape in backbone.output_shape().values()]
        extra_stage = ExtraStage(channels[-1]) if model.EXTRA_STAGE else None
        if extra_stage is not None:
            channels.append(extra_stage.out_channels)
        neck = create_neck(
            model.NECK.NAME, channels, model.HIDDEN_DIM, **_plain(model.NECK.OPTIONS)
        )
        return {
            "backbone": backbone,
            "extra_stage": extra_stage,
            "neck": neck,
            "detector": _build_detector(model, neck.num_levels),
            "criterion": _build_criterion(model),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "score_threshold": cfg.TEST.SCORE_THRESHOLD,
            "nms_iou": cfg.TEST.NMS_IOU,
            "calibration": (cfg.TEST.CALIBRATION.SLOPES, cfg.TEST.CALIBRATION.OFFSETS),
        }

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Sequence[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Returns losses in training, else detections in coordinates of the original images.

        Args:
            batched_inputs: Per image ``image`` (3, H, W) in [0, 255]; in training ``instances``
                with ``gt_boxes`` in px of that image and ``gt_classes``; in inference optionally
                ``height`` and ``width`` of the original image.

        Returns:
            Losses by name, or per image ``{"instances": Instances}`` with ``pred_boxes``,
            ``scores`` and ``pred_classes``.

        Raises:
            DataError: if an image or the objects of an image are missing, of another form, or out
                of range.
        """
        given = read_images(batched_inputs, finite=not self.training)
        images = [self._normalize(image) for image in given]
        if self.training:
            instances = read_instances(batched_inputs, self.criterion.num_classes)
            targets = [self._target(objects) for objects in instances]
            return self.criterion(self.predict(images, targets), targets)
        if not images:
            return []
        predictions = self.predict(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        detections = self._detections(predictions, sizes)
        return [
            {
                "instances": detector_postprocess(
                    result,
                    entry.get("height", result.image_size[0]),
                    entry.get("width", result.image_size[1]),
                )
            }
            for entry, result in zip(batched_inputs, detections)
        ]

    def predict(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Returns raw predictions for normalized images; no image influences another.

        Args:
            images: (B, 3, H, W), or one (3, H_i, W_i) per image.
            targets: The annotated objects, see ``DeformableDETRHead``; in training.

        Returns:
            The output of ``DeformableDETRHead``.
        """
        # Models in other types have nothing for autocast to do, and mix badly with its type
        is_wide = self.pixel_mean.dtype == torch.float32
        with nullcontext() if is_wide else autocast_off(self.pixel_mean):
            return self.detector(*pyramids_by_size(images, self._pyramid), targets)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the neck's maps, L * (B, C, H_l, W_l)."""
        images = images.contiguous(memory_format=torch.channels_last)
        maps = list(self.backbone(images).values())
        if self.extra_stage is not None:
            maps.append(self.extra_stage(maps[-1]))
        return self.neck(maps)

    def _normalize(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 255] -> the backbone's scale, on the model's device."""
        dtype = self.pixel_mean.dtype
        wide = image.to(self.device, torch.promote_types(dtype, torch.float32))
        return ((wide - self.pixel_mean) / self.pixel_std).to(dtype)

    def _target(self, instances: Instances) -> dict[str, Tensor]:
        height, width = instances.image_size
        boxes = instances.gt_boxes.tensor.to(self.device, torch.float32)
        scale = boxes.new_tensor([width, height, width, height])
        return {
            "labels": instances.gt_classes.to(self.device, torch.int64),
            "boxes": box_convert(boxes / scale, "xyxy", "cxcywh"),
        }

    def _detections(
        self, predictions: dict[str, Any], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Returns the best pairs of query and class, in px of the network's input."""
        logits = predictions["pred_logits"]
        scores = (logits * self.score_slopes + self.score_offsets).sigmoid()
        num_classes = scores.shape[-1]
        flat = scores.flatten(1)
        wanted = self.detections_per_image if not self.nms_iou else flat.shape[1]
        best = flat.topk(min(wanted, flat.shape[1]), dim=1)
        boxes_xyxy = box_convert(predictions["pred_boxes"], "cxcywh", "xyxy")
        detections = []
        for image, (height, width) in enumerate(image_sizes):
            keep = best.values[image] > self.score_threshold
            chosen = best.indices[image][keep]
            result = Instances((height, width))
            scale = boxes_xyxy.new_tensor([width, height, width, height])
            queries = chosen.div(num_classes, rounding_mode="floor")
            result.pred_boxes = Boxes(boxes_xyxy[image][queries] * scale)
            result.scores = best.values[image][keep]
            result.pred_classes = chosen % num_classes
            detections.append(self._without_duplicates(result) if self.nms_iou else result)
        return detections

    def _without_duplicates(self, result: Instances) -> Instances:
        """Returns the best detections; no two of a class overlap by more than ``nms_iou``."""
        boxes = result.pred_boxes.tensor  # Detectron2's Boxes are float32, whatever the model is
        kept = batched_nms(boxes, result.scores.to(boxes.dtype), result.pred_classes, self.nms_iou)
        return result[kept[: self.detections_per_image]]


def _build_detector(model: CfgNode, num_levels: int) -> DeformableDETRHead:
    if num_levels < model.ENCODER_LEVELS:
        raise ConfigError(
            f"MODEL.MFDS_DETR.ENCODER_LEVELS={model.ENCODER_LEVELS}, but the neck has {num_levels} "
            "levels; lower it, or give 0 for all"
        )
    sizes = LayerSizes(
        embed_dim=model.HIDDEN_DIM,
        num_heads=model.NUM_HEADS,
        feedforward_dim=model.FEEDFORWARD_DIM,
        dropout=model.DROPOUT,
        num_levels=num_levels,
        num_points=model.NUM_POINTS,
    )
    transformer = DeformableTransformer(
        sizes,
        num_encoder_layers=model.ENCODER_LAYERS,
        num_decoder_layers=model.DECODER_LAYERS,
        level_embed=model.LEVEL_EMBED,
        two_stage=model.TWO_STAGE,
        encoder_levels=model.ENCODER_LEVELS,
    )
    # Only the encoder uses positions; distributed training fails on parameters without a gradient
    position = model.POSITION_ENCODING if model.ENCODER_LAYERS else "none"
    return DeformableDETRHead(
        transformer,
        create_position_encoding(position, model.HIDDEN_DIM),
        num_classes=model.NUM_CLASSES,
        num_queries=model.NUM_QUERIES,
        # Two stages imply refinement: every layer corrects the proposed boxes
        box_refinement=model.BOX_REFINEMENT or model.TWO_STAGE,
        aux_loss=model.AUX_LOSS,
        class_proposals=model.FIRST_STAGE.CLASSES,
        distinct_proposals=model.FIRST_STAGE.DENSE,
        token_content=model.FIRST_STAGE.TOKEN_CONTENT,
        denoising_queries=model.DENOISING_QUERIES,
    )


def _build_criterion(model: CfgNode) -> SetCriterion:
    loss = model.LOSS
    matcher = HungarianMatcher(
        model.MATCHER.CLASS_COST,
        model.MATCHER.L1_COST,
        model.MATCHER.GIOU_COST,
        gamma=loss.FOCAL_GAMMA,
    )
    return SetCriterion(
        matcher,
        model.NUM_CLASSES,
        class_weight=loss.CLASS_WEIGHT,
        l1_weight=loss.L1_WEIGHT,
        giou_weight=loss.GIOU_WEIGHT,
        alpha=torch.tensor(loss.FOCAL_ALPHA),
        gamma=loss.FOCAL_GAMMA,
        quality=loss.QUALITY,
        class_proposals=model.FIRST_STAGE.CLASSES,
        dense_proposals=model.FIRST_STAGE.DENSE,
    )


def _plain(node: CfgNode) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in node.items()}
