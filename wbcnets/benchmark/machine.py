"""The measured limits of the machine: a floor under every time."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wbcnets.benchmark.case import BenchmarkOptions
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
    """

    processor: str
    threads: int
    macs_per_second: float
    bytes_per_second: float
    versions: dict[str, str]

    def floor_seconds(self, macs: int | None, bytes_moved: int | None) -> float | None:
        """Returns the shortest time for the operations and bytes if they overlap, or None."""
        limits = []
        if macs:
            limits.append(macs / self.macs_per_second)
        if bytes_moved:
            limits.append(bytes_moved / self.bytes_per_second)
        return max(limits) if limits else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return asdict(self)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Times a product of large matrices and a copy of a large array; the best of several tries."""
    left = torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device=device).to(dtype)
    right, product = torch.randn_like(left), torch.empty_like(left)
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    operations = [lambda: torch.mm(left, right, out=product), lambda: target.copy_(source)]
    times = time_in_turns(operations, BenchmarkOptions(device, rounds=_TRIES))
    multiply, copy = (min(seconds) for seconds in times)
    return Machine(
        processor=_processor_name(device),
        threads=torch.get_num_threads(),
        macs_per_second=_MATRIX_SIDE**3 / multiply,
        bytes_per_second=2 * _COPIED_BYTES / copy,
        versions=_versions(),
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
