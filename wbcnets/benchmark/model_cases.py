"""Classifiers against those of timm and transformers: inference and training steps."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Case, Pair, Target, tensor_bytes
from wbcnets.models.size import measure_model

BATCH = 8
IMAGE_SIZE = 224
NUM_CLASSES = 1000
# A backward pass multiplies twice what the forward pass does
TRAINING_PASSES = 3

# Ours and its peer: the paper's baseline, or the plain network of the same size
PEERS = {
    "sckansformer_base": "vit_base_patch16_224",
    "sckansformer_small": "vit_small_patch16_224",
    "sckansformer_tiny": "vit_tiny_patch16_224",
    "sparse_vit_base_patch16": "vit_base_patch16_224",
    "resnext_cc_50": "resnext50_32x4d",
    "conv_sparse_vit_13": "transformers:cvt-13",
}
CONVOLUTIONAL = ("resnext",)


def model_cases() -> list[Case]:
    """Returns the cases of inference, compiled inference and a training step for every pair."""
    cases = []
    for ours, peer in PEERS.items():
        has_target = ours == "sckansformer_base"
        suites = ("models", "peers") if has_target else ("models",)
        for kind, target in (("inference", 0.70), ("compiled", 0.60), ("training", 0.75)):
            cases.append(
                Case(
                    name=f"{ours}/{kind}",
                    about=f"{_ABOUT[kind]}, batch {BATCH}, {IMAGE_SIZE} px, over {peer}",
                    build=partial(_compare, ours, peer, kind),
                    suites=suites,
                    target=Target(time=target) if has_target else Target(),
                )
            )
    return cases


_ABOUT = {
    "inference": "inference",
    "compiled": "inference by torch.compile",
    "training": "forward, loss, backward and an AdamW step",
}


def _compare(ours: str, peer: str, kind: str, options: BenchmarkOptions) -> Pair:
    torch.manual_seed(options.seed)
    images = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = torch.randint(NUM_CLASSES, (BATCH,), device=options.device)
    return Pair(
        _candidate(ours, kind, images, targets, options),
        _candidate(peer, kind, images, targets, options),
    )


def _candidate(
    name: str, kind: str, images: Tensor, targets: Tensor, options: BenchmarkOptions
) -> Candidate:
    model = create(name).to(options.device, options.dtype)
    images = images.to(options.device, options.dtype)
    if name.startswith(CONVOLUTIONAL):
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    macs = BATCH * measure_model(model, (3, IMAGE_SIZE, IMAGE_SIZE)).macs
    bytes_moved = tensor_bytes(images, *model.parameters())
    if kind == "training":
        run = training_step(model, images, targets)
        macs, bytes_moved = TRAINING_PASSES * macs, TRAINING_PASSES * bytes_moved
    else:
        model.eval()
        run = partial(predict, torch.compile(model) if kind == "compiled" else model, images)
    return Candidate(name, run, items=BATCH, macs=macs, bytes_moved=bytes_moved)


def create(name: str) -> nn.Module:
    """Returns a model of ``PEERS`` with random weights: (B, 3, H, W) -> (B, 1000).

    Raises:
        ModuleNotFoundError: if its package is not installed.
    """
    if not name.startswith("transformers:"):
        return timm.create_model(name, num_classes=NUM_CLASSES)
    transformers: Any = importlib.import_module("transformers")
    config = transformers.CvtConfig(num_labels=NUM_CLASSES)
    return _Logits(transformers.CvtForImageClassification(config))


class _Logits(nn.Module):
    """A model of transformers that returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def predict(model: Callable[[Tensor], Tensor], images: Tensor) -> Any:
    """Returns the model's output without gradients."""
    with torch.inference_mode():
        return model(images)


def training_step(model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """Returns a function that takes one AdamW step on the cross-entropy and returns the loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> Tensor:
        loss = F.cross_entropy(model(images).float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
