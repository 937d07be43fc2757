"""The measured limits of the machine: a floor under every time."""

import os
import platform
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wbcnets.benchmark.case import BenchmarkOptions, Candidate
from wbcnets.benchmark.measure import time_in_turns
from wbcnets.version import __version__

_MATRIX_SIDE = 2048
_COPIED_BYTES = 256 * 1024 * 1024
_TRIES = 5


@dataclass(frozen=True)
class Machine:
    """A machine and its measured limits.

    Args:
        processor: The name of the processor or GPU.
        threads: The threads that PyTorch uses.
        macs_per_second: Of a large matrix product in the dtype of the benchmark.
        bytes_per_second: Of a large copy, reads and writes together.
        versions: Of the packages that matter for speed.
        bfloat16_macs_per_second: Of the same product in bfloat16; None if it was not measured.
    """

    processor: str
    threads: int
    macs_per_second: float
    bytes_per_second: float
    versions: dict[str, str]
    bfloat16_macs_per_second: float | None = None

    def floor_seconds(self, candidate: Candidate) -> float | None:
        """Returns the shortest time for a run if operations and moves overlap, or None."""
        rate = self.macs_per_second
        if candidate.amp == "bfloat16" and self.bfloat16_macs_per_second:
            rate = self.bfloat16_macs_per_second
        limits = []
        if candidate.macs:
            limits.append(candidate.macs / rate)
        if candidate.bytes_moved:
            limits.append(candidate.bytes_moved / self.bytes_per_second)
        return max(limits) if limits else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return asdict(self)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Times products of large matrices and a copy of a large array; the best of several tries."""
    matrices = torch.randn(2, _MATRIX_SIDE, _MATRIX_SIDE, device=device)
    wide, half = matrices.to(dtype), matrices.to(torch.bfloat16)
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    operations = [
        partial(torch.mm, wide[0], wide[1], out=torch.empty_like(wide[0])),
        partial(torch.mm, half[0], half[1], out=torch.empty_like(half[0])),
        partial(target.copy_, source),
    ]
    times = time_in_turns(operations, BenchmarkOptions(device, rounds=_TRIES))
    multiply, multiply_half, copy = (min(seconds) for seconds in times)
    return Machine(
        processor=_processor_name(device),
        threads=torch.get_num_threads(),
        macs_per_second=_MATRIX_SIDE**3 / multiply,
        bytes_per_second=2 * _COPIED_BYTES / copy,
        versions=_versions(),
        bfloat16_macs_per_second=_MATRIX_SIDE**3 / multiply_half,
    )


def _processor_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "wbcnets": __version__}
    for name in ("torch", "timm", "transformers", "detectron2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
