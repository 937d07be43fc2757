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
from wbcnets.engine.precision import autocast
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

# What is timed, and the largest ratio of times that is good enough for the paper's network
_TRAINING = "forward, loss, backward and an AdamW step"
KINDS = {
    "inference": ("inference", 0.70),
    "compiled": ("inference by torch.compile", 0.60),
    "training": (_TRAINING, 0.75),
    "inference_bfloat16": ("inference under autocast to bfloat16", 0.70),
    "training_bfloat16": (f"{_TRAINING} under autocast to bfloat16", 0.75),
}


def model_cases() -> list[Case]:
    """Returns the cases of ``KINDS`` for every pair."""
    cases = []
    for ours, peer in PEERS.items():
        has_target = ours == "sckansformer_base"
        suites = ("models", "peers") if has_target else ("models",)
        for kind, (about, target) in KINDS.items():
            cases.append(
                Case(
                    name=f"{ours}/{kind}",
                    about=f"{about}, batch {BATCH}, {IMAGE_SIZE} px, over {peer}",
                    build=partial(_compare, ours, peer, kind),
                    suites=suites,
                    target=Target(time=target) if has_target else Target(),
                )
            )
    return cases


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
    mode, _, half = kind.partition("_")
    amp = half or "none"
    if mode == "training":
        run = training_step(model, images, targets, amp)
        macs, bytes_moved = TRAINING_PASSES * macs, TRAINING_PASSES * bytes_moved
    else:
        model.eval()
        run = partial(predict, torch.compile(model) if mode == "compiled" else model, images, amp)
    return Candidate(name, run, items=BATCH, macs=macs, bytes_moved=bytes_moved, amp=amp)


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


def predict(model: Callable[[Tensor], Tensor], images: Tensor, amp: str = "none") -> Any:
    """Returns the model's output without gradients."""
    with torch.inference_mode(), autocast(images.device.type, amp):
        return model(images)


def training_step(
    model: nn.Module, images: Tensor, targets: Tensor, amp: str = "none"
) -> Callable[[], Tensor]:
    """Returns a function that takes one AdamW step on the cross-entropy and returns the loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> Tensor:
        with autocast(images.device.type, amp):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
