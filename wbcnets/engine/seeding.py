"""Random numbers that follow from seed and step alone."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seeds torch, NumPy and Python from a combination of numbers.

    Every training step seeds anew, so that its randomness follows from its index in the run, and a
    resumed run needs no generator state.
    """
    first, second = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    torch.manual_seed((first << 32) | second)
    np.random.seed(first)  # timm's Mixup draws from NumPy's global generator
    random.seed(second)
