"""Automatic mixed precision by name."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

AMP_DTYPES: dict[str, torch.dtype | None] = {
    "none": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def autocast(device_type: str, amp: str) -> AbstractContextManager[Any]:
    """Returns the autocast context of a name in ``AMP_DTYPES``; "none" changes nothing."""
    dtype = AMP_DTYPES[amp]
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)
