"""Switch for the Triton kernels of the operators on GPUs."""

import importlib.util
import os

import torch

ENVIRONMENT_VARIABLE = "WBCNETS_TRITON"
_INSTALLED = importlib.util.find_spec("triton") is not None


def wants_triton(device: torch.device) -> bool:
    """Returns whether to use the kernels: on a GPU, with triton, if ``WBCNETS_TRITON=1``.

    They are opt-in because so far only Triton's interpreter has checked their numbers.
    """
    asked = os.environ.get(ENVIRONMENT_VARIABLE, "0") == "1"
    return asked and _INSTALLED and device.type == "cuda"
