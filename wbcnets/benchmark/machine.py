"""What the machine can do at best, measured: the floor under every time."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wbcnets.benchmark.measure import synchronize
from wbcnets.version import __version__

_MATRIX_SIDE = 2048
_COPIED_BYTES = 256 * 1024 * 1024
_TRIES = 5


@dataclass(frozen=True)
class Machine:
    """A machine and its measured limits.

    Args:
        processor: Name of the processor or GPU.
        threads: Threads that PyTorch uses.
        macs_per_second: Of a large matrix product in the type that is measured.
        bytes_per_second: Read and written by a large copy.
        versions: Of the packages that matter.
    """

    processor: str
    threads: int
    macs_per_second: float
    bytes_per_second: float
    versions: dict[str, str]

    def floor_seconds(self, macs: int | None, bytes_moved: int | None) -> float | None:
        """The shortest time for so many operations and bytes, if both overlap; None for neither."""
        limits = []
        if macs:
            limits.append(macs / self.macs_per_second)
        if bytes_moved:
            limits.append(bytes_moved / self.bytes_per_second)
        return max(limits) if limits else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Multiplies large matrices and copies a large array, the best of several tries each."""
    left = torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device=device).to(dtype)
    right, product = torch.randn_like(left), torch.empty_like(left)
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    multiply = _best_seconds(lambda: torch.mm(left, right, out=product), device)
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Machine(
        processor=_processor_name(device),
        threads=torch.get_num_threads(),
        macs_per_second=_MATRIX_SIDE**3 / multiply,
        bytes_per_second=2 * _COPIED_BYTES / copy,
        versions=_versions(),
    )


def _best_seconds(run: Any, device: torch.device) -> float:
    seconds = []
    for _ in range(_TRIES + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


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
