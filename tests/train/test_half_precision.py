"""Training in bfloat16 ends where float32 ends."""

import statistics

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from wbcnets.models.sckansformer import SCKansformer

EPOCHS, BATCH, TRAINED, LR = 6, 40, 1200, 2e-3


def digits():
    """Returns 1,797 digits as images of 32 px in [-1, 1], and their classes, in random order."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(9))
    images = F.interpolate(images, size=(32, 32), mode="bilinear")
    return images[order], torch.tensor(found.target)[order]


def trained_accuracy(images, targets, seed, half):
    torch.manual_seed(seed)
    model = SCKansformer(
        embed_dim=64,
        depth=3,
        num_heads=2,
        img_size=32,
        patch_size=8,
        in_chans=1,
        num_classes=10,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    steps = EPOCHS * TRAINED // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINED).split(BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(images[batch])
            loss = F.cross_entropy(logits.float(), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = model(images[TRAINED:]).argmax(dim=1)
    return (found == targets[TRAINED:]).float().mean().item()


@pytest.mark.long
def test_bfloat16_ends_within_the_spread_of_the_seeds():
    images, targets = digits()
    wide, half = (
        [trained_accuracy(images, targets, seed, half) for seed in range(4)]
        for half in (False, True)
    )
    spread = max(statistics.stdev(wide), 0.005)
    assert statistics.mean(wide) > 0.95
    assert statistics.mean(half) >= statistics.mean(wide) - spread
