import dataclasses
import time
from functools import partial

import pytest
import torch

from tests.processes import Worker
from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Pair
from wbcnets.benchmark.machine import Machine, measure_machine
from wbcnets.benchmark.measure import Measurement, Runs, measure, peak_memory, saved_bytes

CPU = torch.device("cpu")


def test_candidates_take_turns_after_warming_up():
    runs = []
    pair = Pair(
        Candidate("ours", lambda: runs.append("ours")), Candidate("peer", lambda: runs.append("p"))
    )
    measurement = measure(pair, BenchmarkOptions(rounds=3, warmup=2))
    assert runs[:4] == ["ours", "ours", "p", "p"]
    assert runs[4:10] == ["ours", "p"] * 3
    assert len(measurement.ours.seconds) == len(measurement.peer.seconds) == 3


def test_the_ratio_is_the_median_of_the_rounds():
    # One round in which the machine was busy: both took ten times as long
    measurement = Measurement(Runs([1.0, 10.0, 1.0]), Runs([2.0, 20.0, 4.0]))
    assert measurement.ratios == [0.5, 0.5, 0.25]
    assert measurement.ratio == 0.5
    assert Measurement(Runs([1.0])).ratio is None


def test_a_slower_peer_has_a_ratio_below_one():
    pair = Pair(Candidate("ours", lambda: None), Candidate("peer", lambda: time.sleep(0.01)))
    assert measure(pair, BenchmarkOptions(rounds=3)).ratio < 1


def test_saved_bytes_counts_each_array_once():
    x = torch.randn(100, dtype=torch.float32, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum()) == 400  # x twice, one storage
    # exp keeps its result, sin its input
    assert saved_bytes(lambda: x.exp().sin().sum()) == 400
    assert saved_bytes(lambda: x.sin().sin().sum()) == 800


def print_peaks():
    print(peak_memory(lambda: torch.ones(64 * 1024 * 1024 // 4).sum(), CPU))
    print(peak_memory(lambda: None, CPU))


@pytest.mark.skipif(peak_memory(lambda: None, CPU) is None, reason="needs /proc/self/clear_refs")
def test_peak_memory_sees_a_large_array(tmp_path):
    """In a process of its own: an allocator that has freed as much would not ask for more."""
    worker = Worker(tmp_path / "shown.txt", print_peaks)
    assert worker.wait() == 0, worker.text
    large, small = map(int, worker.text.split())
    assert small < 8 * 1024 * 1024 < 60 * 1024 * 1024 < large


def test_memory_ratio_needs_both():
    assert (
        Measurement(Runs([1.0], saved_bytes=10), Runs([1.0], saved_bytes=40)).memory_ratio == 0.25
    )
    assert Measurement(Runs([1.0]), Runs([1.0])).memory_ratio is None


def test_the_floor_is_the_longer_of_operations_and_bytes():
    machine = Machine("a processor", 2, macs_per_second=100.0, bytes_per_second=10.0, versions={})
    half = dataclasses.replace(machine, bfloat16_macs_per_second=400.0)
    candidate = partial(Candidate, "a model", list)
    assert machine.floor_seconds(candidate(macs=200, bytes_moved=5)) == 2.0
    assert machine.floor_seconds(candidate(macs=200, bytes_moved=50)) == 5.0
    assert machine.floor_seconds(candidate(bytes_moved=50)) == 5.0
    assert machine.floor_seconds(candidate()) is None
    assert half.floor_seconds(candidate(macs=200)) == 2.0
    assert half.floor_seconds(candidate(macs=200, amp="bfloat16")) == 0.5
    assert machine.floor_seconds(candidate(macs=200, amp="bfloat16")) == 2.0


def test_the_machine_has_a_name_and_limits():
    machine = measure_machine(CPU, torch.float32)
    assert machine.processor
    assert machine.macs_per_second > 1e6
    assert machine.bytes_per_second > 1e6
    assert machine.versions["torch"] == torch.__version__.split("+")[0]
