"""Whether operators on GPUs take their kernels in Triton."""

import importlib.util
import os

import torch

ENVIRONMENT_VARIABLE = "WBCNETS_TRITON"
_INSTALLED = importlib.util.find_spec("triton") is not None


def wants_triton(device: torch.device) -> bool:
    """Whether `WBCNETS_TRITON=1` asks for them, on a GPU, and triton is there.

    They have to be asked for as long as they have not been run on a GPU: so far their numbers were
    checked by Triton's interpreter only.
    """
    asked = os.environ.get(ENVIRONMENT_VARIABLE, "0") == "1"
    return asked and _INSTALLED and device.type == "cuda"
