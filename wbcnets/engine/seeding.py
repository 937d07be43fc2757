"""Random numbers that follow from seed and step alone."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seeds torch, NumPy and Python from a combination of numbers.

    Both trainers call it before every step: the step's randomness then follows from the step's
    index, and a resumed run needs no generator state.
    """
    first, second = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    torch.manual_seed((first << 32) | second)
    np.random.seed(first)  # timm's Mixup draws from NumPy's global generator
    random.seed(second)
