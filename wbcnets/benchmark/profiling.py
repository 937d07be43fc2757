"""Traces of a candidate, and tables of its slowest operators."""

import re
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from wbcnets.benchmark.case import Candidate
from wbcnets.io.atomic_files import write_text

_ROWS = 25


def profile_candidate(
    candidate: Candidate, case_name: str, folder: Path, device: torch.device
) -> None:
    """Runs a candidate under PyTorch's profiler; writes ``trace_*.json`` and ``profile_*.txt``.

    Args:
        candidate: The one to run.
        case_name: A part of the files' names.
        folder: The folder of the files.
        device: The device whose kernels are recorded.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    candidate.run()
    with profile(activities=activities) as profiler:
        candidate.run()
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", f"{case_name}_{candidate.name}").strip("_")
    profiler.export_chrome_trace(str(folder / f"trace_{name}.json"))
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=48)
    write_text(folder / f"profile_{name}.txt", table)
