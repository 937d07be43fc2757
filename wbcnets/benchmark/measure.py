"""Times in turns, so that other work on the machine disturbs both sides alike, and memory."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Pair

_SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class Runs:
    """The measured runs of one candidate.

    Args:
        seconds: The time of every round.
        peak_bytes: The most memory in use above that before the run, or None if unknown.
        saved_bytes: Memory kept for the backward pass, or None if not measured.
    """

    seconds: list[float]
    peak_bytes: int | None = None
    saved_bytes: int | None = None

    @property
    def median(self) -> float:
        """The median time in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Measurement:
    """The runs of a pair.

    Args:
        ours: Our runs.
        peer: The peer's runs, or None without a peer.
    """

    ours: Runs
    peer: Runs | None = None

    @property
    def ratios(self) -> list[float]:
        """Our time over the peer's in every round."""
        if self.peer is None:
            return []
        return [ours / peer for ours, peer in zip(self.ours.seconds, self.peer.seconds)]

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: a busy machine slows both sides of a round."""
        return statistics.median(self.ratios) if self.peer else None

    @property
    def memory_ratio(self) -> float | None:
        """Our memory kept for the backward pass over the peer's."""
        if self.peer is None or self.ours.saved_bytes is None or not self.peer.saved_bytes:
            return None
        return self.ours.saved_bytes / self.peer.saved_bytes


def measure(pair: Pair, options: BenchmarkOptions, label: str = "") -> Measurement:
    """Times both candidates in turns, then measures their memory.

    Args:
        pair: Ours and the peer.
        options: Rounds, warm-up and device.
        label: The title of the progress bar.
    """
    candidates = [candidate for candidate in (pair.ours, pair.peer) if candidate is not None]
    seconds = time_in_turns([candidate.run for candidate in candidates], options, label)
    runs = [_with_memory(c, times, pair, options) for c, times in zip(candidates, seconds)]
    return Measurement(*runs)


def _with_memory(
    candidate: Candidate, seconds: list[float], pair: Pair, options: BenchmarkOptions
) -> Runs:
    saved = saved_bytes(candidate.run) if pair.memory else None
    return Runs(seconds, peak_memory(candidate.run, options.device), saved)


def time_in_turns(
    runs: Sequence[Callable[[], Any]], options: BenchmarkOptions, label: str = ""
) -> list[list[float]]:
    """Returns the seconds of every round for each function; they take turns.

    Args:
        runs: The functions.
        options: Rounds, warm-up and device.
        label: The title of the progress bar; none without a title.
    """
    for run in runs:
        for _ in range(options.warmup):
            _timed(run, options.device)
    seconds: list[list[float]] = [[] for _ in runs]
    hidden = None if label else True
    for _ in tqdm(range(options.rounds), desc=label, leave=False, disable=hidden):
        for run, times in zip(runs, seconds):
            times.append(_timed(run, options.device))
    return seconds


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def saved_bytes(run: Callable[[], Any]) -> int:
    """Returns the bytes that autograd keeps for the backward pass, with parameters and inputs."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """Returns the most bytes in use during a run above those before it, or None if unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before_resident = _resident_bytes()
    if before_resident is None:
        return None
    with _PeakResident() as peak:
        run()
    return max(0, peak.bytes - before_resident)


class _PeakResident:
    """Samples the process's memory every few milliseconds and keeps the maximum."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, _resident_bytes() or 0)

    def __enter__(self) -> "_PeakResident":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()


def _resident_bytes() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4096
    return None
