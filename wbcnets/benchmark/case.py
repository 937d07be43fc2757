"""What is compared: a case has something of ours, a peer, and what we want of their ratio."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Settings:
    """Where and how everything is measured.

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
        name: What it is called in tables.
        run: One run; what it returns is dropped.
        items: Images, rows or queries of one run, for the throughput.
        macs: Multiply-accumulates of one run, None where nobody counted.
        bytes_moved: Bytes that have to be read and written at least; None where nobody counted.
    """

    name: str
    run: Callable[[], Any]
    items: int = 1
    macs: int | None = None
    bytes_moved: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Ours and a peer, built and ready to run.

    Args:
        ours: The library's.
        peer: Whom it is compared to; None where there is nobody.
        memory: Whether the memory kept for the backward pass is compared, too.
    """

    ours: Candidate
    peer: Candidate | None = None
    memory: bool = False


@dataclass(frozen=True)
class Target:
    """The largest share of the peer that is has_target at.

    Args:
        time: Our time over the peer's.
        memory: Our memory kept for the backward pass over the peer's.
    """

    time: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Case:
    """A comparison by name, built when it is measured.

    Args:
        name: For `--case`, such as "sckansformer_base/inference".
        about: What is compared, in a few words.
        build: Makes the candidates.
        suites: Groups that it belongs to.
        target: What is wanted on two processors in float32.
    """

    name: str
    about: str
    build: Callable[[Settings], Comparison]
    suites: tuple[str, ...]
    target: Target = field(default_factory=Target)


def tensor_bytes(*tensors: torch.Tensor) -> int:
    """Bytes of the tensors' values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
