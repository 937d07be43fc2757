"""MFDS-DETR against transformers' Deformable-DETR of the same size, for ``wbcnets benchmark``."""

import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from mfds_detr.config import read_config
from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Case, Pair, Target
from wbcnets.benchmark.scaling import ScalingCase

HEIGHT, WIDTH = 480, 640
NUM_CLASSES, NUM_QUERIES = 3, 100
TRAINING_BATCH, BOXES_PER_IMAGE = 2, 14
FROZEN_PARTS = re.compile(r"backbone\.model\.(conv1|layer1\..*)\.weight$")
PEER = "transformers' Deformable-DETR"


def detector_cases() -> list[Case | ScalingCase]:
    """Returns the cases of inference, of a training step, and of scaling by size and batch."""
    sizes = f"ResNet-50, {NUM_QUERIES} queries, {WIDTH}x{HEIGHT}"
    suites = ("detector", "peers")
    return [
        Case(
            "mfds_detr/inference",
            f"{sizes}, batch 1, over {PEER}",
            _compare_inference,
            suites,
            Target(time=1 / 2.5),
        ),
        Case(
            "mfds_detr/training",
            f"{sizes}, batch {TRAINING_BATCH}, {BOXES_PER_IMAGE} boxes per image, with loss "
            f"and AdamW, over {PEER}",
            _compare_training,
            suites,
            Target(time=1 / 2.5),
        ),
        ScalingCase("mfds_detr", "MFDS-DETR R-50, inference, by size and batch", _scaled),
    ]


def _scaled(options: BenchmarkOptions) -> Callable[[int, int, int], Callable[[], Any]]:
    model = create_ours(options).eval()

    def at_size(batch: int, height: int, width: int) -> Callable[[], Any]:
        images = torch.randn(batch, 3, height, width, device=options.device)
        return partial(_predict_ours, model, images.to(options.dtype))

    return at_size


def create_ours(options: BenchmarkOptions) -> nn.Module:
    """Creates the full MFDS-DETR with random weights."""
    torch.manual_seed(options.seed)
    overrides = ["MODEL.MFDS_DETR.NUM_CLASSES", NUM_CLASSES, "MODEL.DEVICE", options.device.type]
    return build_model(read_config("mfds_detr_r50_base", overrides)).to(options.dtype)


def create_peer(options: BenchmarkOptions) -> nn.Module:
    """Creates transformers' Deformable-DETR of the same width and depth, with random weights.

    As in ours, batch norms are frozen, and the stem and the first stage are not trained.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
    """
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(options.seed)
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet50", use_pretrained_backbone=False, out_indices=[2, 3, 4]
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        num_queries=NUM_QUERIES,
        num_labels=NUM_CLASSES,
        auxiliary_loss=True,
    )
    model = transformers.DeformableDetrForObjectDetection(config)
    frozen = [p for name, p in model.named_parameters() if FROZEN_PARTS.search(name)]
    assert (
        len(frozen) == 1 + 10
    )  # the convolutions of the stem, and of three blocks with one shortcut
    for parameter in frozen:
        parameter.requires_grad_(False)
    return model.to(options.device, options.dtype)


def _compare_inference(options: BenchmarkOptions) -> Pair:
    images = torch.randn(1, 3, HEIGHT, WIDTH, device=options.device).to(options.dtype)
    ours, peer = create_ours(options).eval(), create_peer(options).eval()
    return Pair(
        Candidate("MFDS-DETR", partial(_predict_ours, ours, images)),
        Candidate(PEER, partial(_predict_peer, peer, images)),
    )


def _predict_ours(model: Any, images: Tensor) -> Any:
    with torch.inference_mode():
        return model.predict(images)


def _predict_peer(model: nn.Module, images: Tensor) -> Any:
    with torch.inference_mode():
        return model(pixel_values=images)


def _compare_training(options: BenchmarkOptions) -> Pair:
    return Pair(
        Candidate("MFDS-DETR", _our_step(options), items=TRAINING_BATCH),
        Candidate(PEER, _peer_step(options), items=TRAINING_BATCH),
    )


def _objects(options: BenchmarkOptions) -> list[tuple[Tensor, Tensor]]:
    """Returns labels and boxes (cx, cy, w, h) in fractions of the image, the same for both."""
    generator = torch.Generator().manual_seed(options.seed)
    objects = []
    for _ in range(TRAINING_BATCH):
        labels = torch.randint(NUM_CLASSES, (BOXES_PER_IMAGE,), generator=generator)
        centers = 0.1 + 0.8 * torch.rand(BOXES_PER_IMAGE, 2, generator=generator)
        objects.append((labels, torch.cat([centers, torch.full_like(centers, 0.15)], dim=1)))
    return objects


def _our_step(options: BenchmarkOptions) -> Callable[[], Any]:
    model = create_ours(options).train()
    inputs = []
    for labels, boxes in _objects(options):
        boxes_xyxy = box_convert(boxes, "cxcywh", "xyxy")
        instances = Instances((HEIGHT, WIDTH))
        instances.gt_boxes = Boxes(boxes_xyxy * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        instances.gt_classes = labels
        inputs.append({"image": torch.rand(3, HEIGHT, WIDTH) * 255, "instances": instances})
    return _step(model, lambda: torch.stack(list(model(inputs).values())).sum())


def _peer_step(options: BenchmarkOptions) -> Callable[[], Any]:
    model = create_peer(options).train()
    images = torch.rand(TRAINING_BATCH, 3, HEIGHT, WIDTH, device=options.device)
    images = images.to(options.dtype)
    labels = [
        {"class_labels": labels.to(options.device), "boxes": boxes.to(options.device)}
        for labels, boxes in _objects(options)
    ]
    return _step(model, lambda: model(pixel_values=images, labels=labels).loss)


def _step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], Any]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-7, fused=True)

    def step() -> None:
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()

    return step
