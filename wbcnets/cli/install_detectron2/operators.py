"""Stands in for detectron2's compiled operators in a pure-Python installation.

``wbcnets install-detectron2`` puts this file into the wheel as ``detectron2/_C.py``. The three
functions serve detectron2's environment report; every other name is an operator and raises.
"""

from typing import NoReturn


def get_compiler_version() -> str:
    """Returns the compiler that built the operators."""
    return "none (pure-Python installation)"


def get_cuda_version() -> str:
    """Returns the CUDA version that the operators were built with."""
    return "none (pure-Python installation)"


def has_cuda() -> bool:
    """Returns whether the operators run on CUDA."""
    return False


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        f"detectron2's compiled operator {name!r} is missing: this is a pure-Python installation "
        "of detectron2. Deformable convolution, rotated boxes and the fast COCO "
        "evaluation need compiled code. Evaluate with COCOEvaluator(..., use_fast_impl=False), "
        "or install a compiled detectron2: from conda-forge, or by its own installation guide."
    )
