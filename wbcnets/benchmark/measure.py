"""Times in turns, and memory: what a machine's other work disturbs least."""

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wbcnets.benchmark.case import Candidate, Comparison, Settings

_SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate's runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Measurement:
    """One comparison's figures.

    Args:
        ours: Our runs.
        peer: The peer's runs, None without one.
        ours_peak: Most memory in use above what was before, in bytes; None where unknown.
        peer_peak: The same of the peer.
        ours_saved: Bytes kept for the backward pass, None where not asked for.
        peer_saved: The same of the peer.
    """

    ours: Timing
    peer: Timing | None = None
    ours_peak: int | None = None
    peer_peak: int | None = None
    ours_saved: int | None = None
    peer_saved: int | None = None

    @property
    def ratios(self) -> list[float]:
        """Our time over the peer's, of every round."""
        if self.peer is None:
            return []
        return [ours / peer for ours, peer in zip(self.ours.seconds, self.peer.seconds)]

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: what disturbs a machine disturbs both of a round."""
        return statistics.median(self.ratios) if self.peer else None

    @property
    def memory_ratio(self) -> float | None:
        """Our kept memory over the peer's."""
        if self.ours_saved is None or not self.peer_saved:
            return None
        return self.ours_saved / self.peer_saved


def measure(comparison: Comparison, settings: Settings, label: str = "") -> Measurement:
    """Warms both up, lets them take turns, and then looks at memory.

    Args:
        comparison: Ours and the peer.
        settings: Rounds, warm-up and device.
        label: For the progress bar.
    """
    candidates = [c for c in (comparison.ours, comparison.peer) if c is not None]
    seconds: list[list[float]] = [[] for _ in candidates]
    for candidate in candidates:
        for _ in range(settings.warmup):
            _timed(candidate, settings.device)
    for _ in tqdm(range(settings.rounds), desc=label, leave=False, disable=None):
        for candidate, times in zip(candidates, seconds):
            times.append(_timed(candidate, settings.device))
    peaks = [peak_memory(candidate.run, settings.device) for candidate in candidates]
    saved = [saved_bytes(c.run) if comparison.memory else None for c in candidates]
    with_peer = len(candidates) > 1
    return Measurement(
        ours=Timing(seconds[0]),
        peer=Timing(seconds[1]) if with_peer else None,
        ours_peak=peaks[0],
        peer_peak=peaks[1] if with_peer else None,
        ours_saved=saved[0],
        peer_saved=saved[1] if with_peer else None,
    )


def saved_bytes(run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass, parameters and inputs among them."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """Most bytes in use during a run above those before it; None where it cannot be known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before_resident = _resident_bytes()
    if before_resident is None:
        return None
    with _HighestResident() as highest:
        run()
    return max(0, highest.bytes - before_resident)


class _HighestResident:
    """Looks at the process's memory every few milliseconds."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLING_SECONDS):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, _resident_bytes() or 0)

    def __enter__(self) -> "_HighestResident":
        self._look()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        self._look()


def _resident_bytes() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4096
    return None


def _timed(candidate: Candidate, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    candidate.run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
