import pytest
import torch

from tests.ops.splines import random_rows, uneven_grid, uniform_grid, weights
from wbcnets.ops.kan_spline import bspline_bases
from wbcnets.ops.kan_spline.knots import (
    adaptive_knots,
    are_uniform,
    refitted_weight,
    uniform_knots,
)


def test_knots_of_the_released_configuration():
    expected = torch.tensor([-2.2, -1.8, -1.4, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.4, 1.8, 2.2])
    torch.testing.assert_close(uniform_knots(5, 3, (-1.0, 1.0)), expected)


@pytest.mark.parametrize("size", [1, 5, 50, 500])
@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 1e-3), (-1000.0, 1.0), (99.0, 100.0)])
def test_rounding_does_not_make_a_grid_uneven(size, limits):
    grid = uniform_knots(size, 3, limits, dtype=torch.float32).repeat(2, 1)
    assert are_uniform(grid, torch.float32)
    exact = uniform_knots(size, 3, limits, dtype=torch.float64).repeat(2, 1)
    assert are_uniform(exact.float(), torch.float32)


def test_an_uneven_row_is_found():
    grid = uniform_grid(3)
    assert are_uniform(grid, torch.float64)
    grid[1, 4] += 1e-3
    assert not are_uniform(grid, torch.float64)
    # Less than a half type can hold
    assert are_uniform(grid, torch.float16)
    # A row far larger does not hide it
    grid[0] *= 1e15
    assert not are_uniform(grid, torch.float64)


def test_adaptive_knots_worked_by_hand():
    rows = torch.tensor([4.0, 0.0, 1.0, 9.0, 2.0])[:, None]
    knots = adaptive_knots(rows, grid_size=2, order=1, margin=0.5, uniform_fraction=0.5)
    # Even: -0.5, 4.5, 9.5; quantiles: 0, 2, 9; halfway: -0.25, 3.25, 9.25; spacing 5 outside
    expected = torch.tensor([[-5.25, -0.25, 3.25, 9.25, 14.25]], dtype=torch.float64)
    torch.testing.assert_close(knots, expected)
    knots = adaptive_knots(rows, grid_size=2, order=3, margin=0.5, uniform_fraction=0.5)
    outer = torch.tensor([5.0, 10.0], dtype=torch.float64)
    expected = torch.cat([-5.25 - outer.flip(0), expected[0], 14.25 + outer])[None]
    torch.testing.assert_close(knots, expected)


@pytest.mark.parametrize("order", [2, 3])
def test_refit_is_the_least_squares_solution(order):
    rows = random_rows(60, features=3)
    weight, _ = weights(features=3, bases=5 + order)
    old, new = uniform_grid(3, order=order), uneven_grid(3, order=order)
    found = refitted_weight(rows, old, new, order, weight)
    for feature in range(3):
        one = slice(feature, feature + 1)
        values = bspline_bases(rows[:, one], old[one], order)[:, 0] @ weight[:, feature].t()
        new_bases = bspline_bases(rows[:, one], new[one], order)[:, 0]
        expected = torch.linalg.lstsq(new_bases, values).solution.t()
        torch.testing.assert_close(found[:, feature], expected, rtol=1e-7, atol=1e-7)


def test_directions_that_the_data_hardly_show_stay_small():
    # The data end a thousandth inside the support of one of the new bases
    rows = torch.linspace(-1, 0.201, 60, dtype=torch.float64)[:, None]
    weight, _ = weights(features=1)
    found = refitted_weight(rows, uneven_grid(1), uniform_grid(1), 3, weight)
    assert found.abs().max() < 10 * weight.abs().max()


def test_refit_by_blocks_of_features_equals_one(monkeypatch):
    rows = random_rows(40, features=3)
    weight, _ = weights(features=3)
    arguments = (rows, uniform_grid(3), uneven_grid(3), 3, weight)
    expected = refitted_weight(*arguments)
    monkeypatch.setattr("wbcnets.ops.kan_spline.knots.REFIT_BLOCK", 80)
    torch.testing.assert_close(refitted_weight(*arguments), expected)
