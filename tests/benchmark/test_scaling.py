import pytest

from wbcnets.benchmark.case import BenchmarkOptions
from wbcnets.benchmark.scaling import (
    BATCHES,
    SIZES,
    ScalingCase,
    ScalingPoint,
    growth,
    measure_scaling,
    plot_scaling,
)


def points(seconds):
    """A model whose time is a function of batch, height and width."""
    wanted = [(1, *size) for size in SIZES] + [(batch, *SIZES[0]) for batch in BATCHES[1:]]
    return [ScalingPoint("model", *where, seconds(*where)) for where in wanted]


def test_in_proportion_is_one():
    by_size, by_batch = growth(points(lambda batch, height, width: 1e-6 * batch * height * width))
    assert by_size == pytest.approx(1.0)
    assert by_batch == pytest.approx(1.0)


def test_quadratic_time_is_found():
    by_size, by_batch = growth(
        points(lambda batch, height, width: batch**2 * (height * width) ** 2)
    )
    assert by_size == pytest.approx(16.0)  # sixteen times the pixels
    assert by_batch == pytest.approx(16.0)


def test_every_size_and_batch_is_run_and_drawn(tmp_path):
    runs = []

    def build(options):
        return lambda batch, height, width: lambda: runs.append((batch, height, width))

    measured = measure_scaling(
        ScalingCase("model", "", build), BenchmarkOptions(rounds=2, warmup=1)
    )
    assert runs[::3] == [(p.batch, p.height, p.width) for p in measured]
    assert len(runs) == 3 * (len(SIZES) + len(BATCHES) - 1)
    plot_scaling(measured, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
