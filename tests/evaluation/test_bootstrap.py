import numpy as np
import pytest

from wbcnets.evaluation import bootstrap
from wbcnets.evaluation.bootstrap import (
    bootstrap_metrics,
    bootstrap_weights,
    percentile_interval,
    sampling_units,
)


def draw(count, groups, resamples):
    return np.concatenate([*bootstrap_weights(sampling_units(count, groups), resamples, seed=0)])


def test_patients_are_drawn_whole():
    groups = ["p1", "p1", "", "p2", "p2", "p2"]
    weights = draw(6, groups, 50)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 3], weights[:, 5])
    assert not np.array_equal(weights[:, 2], weights[:, 0])
    # Three units are drawn three times
    assert np.array_equal(weights[:, [0, 2, 3]].sum(axis=1), np.full(50, 3.0))


def test_images_without_groups_are_drawn_one_by_one():
    for groups in (None, ["", "", "", ""]):
        weights = draw(4, groups, 2000)
        assert np.array_equal(weights.sum(axis=1), np.full(2000, 4.0))
        np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)


def test_chunks_do_not_change_the_resamples(monkeypatch):
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(3, size=150), generator.dirichlet(np.ones(3), size=150)
    units = np.arange(150)
    whole = bootstrap_metrics(labels, scores, units, 20, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7 * len(labels))
    parts = bootstrap_metrics(labels, scores, units, 20, seed=5)
    for name, values in whole.overall.items():
        assert values.shape == (20,)
        np.testing.assert_allclose(parts.overall[name], values, rtol=1e-12)
    for name, values in whole.per_class.items():
        assert values.shape == (20, 3)
        np.testing.assert_allclose(parts.per_class[name], values, rtol=1e-12)


def test_interval_leaves_out_undefined_values():
    values = np.array([np.nan, *range(101)])
    assert percentile_interval(values, 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.array([np.nan, np.nan]), 0.9) is None
