"""The cases of a benchmark: a candidate of ours, a peer, and a target for their ratio."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the measurement of every case.

    Args:
        device: "cpu" or "cuda".
        dtype: Of weights and inputs.
        rounds: How often ours and the peer take turns.
        warmup: Runs of each before the first round.
        seed: Of weights and inputs.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    rounds: int = 7
    warmup: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """Something to run.

    Args:
        name: Its name in tables.
        run: Runs it once; the result is dropped.
        items: Images, rows or queries per run, for the throughput.
        macs: Multiply-accumulates per run, or None if unknown.
        bytes_moved: Bytes that a run has to read and write at least, or None if unknown.
        amp: Automatic mixed precision of the run: "none" or "bfloat16".
    """

    name: str
    run: Callable[[], Any]
    items: int = 1
    macs: int | None = None
    bytes_moved: int | None = None
    amp: str = "none"


@dataclass(frozen=True)
class Pair:
    """Our candidate and its peer, ready to run.

    Args:
        ours: The library's.
        peer: The baseline, or None.
        memory: Whether to compare the memory kept for the backward pass.
    """

    ours: Candidate
    peer: Candidate | None = None
    memory: bool = False


@dataclass(frozen=True)
class Target:
    """The largest ratios that are good enough, on two CPU cores.

    Args:
        time: Our time over the peer's.
        memory: Our memory kept for the backward pass over the peer's.
    """

    time: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Case:
    """A named pair, built when it is measured.

    Args:
        name: The name that selects it, such as "sckansformer_base/inference".
        about: What is compared, in a few words.
        build: Returns the pair.
        suites: The groups of cases that it belongs to.
        target: The ratio to reach.
    """

    name: str
    about: str
    build: Callable[[BenchmarkOptions], Pair]
    suites: tuple[str, ...]
    target: Target = field(default_factory=Target)


def tensor_bytes(*tensors: torch.Tensor) -> int:
    """Returns the size of the tensors' values in bytes."""
    return sum(tensor.nbytes for tensor in tensors)
