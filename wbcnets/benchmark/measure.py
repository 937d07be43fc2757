"""Times in turns, so that other work on the machine disturbs both sides alike, and memory."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Pair


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
    try:
        Path("/proc/self/clear_refs").write_text("5")  # lowers the recorded peak to the present
    except OSError:
        return None
    before = _process_memory("VmRSS")
    run()
    return max(0, _process_memory("VmHWM") - before)


def _process_memory(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
