import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.kan_layers import layer_with_large_splines, random_rows, uneven_layer
from wbcnets.errors import ConfigError, DataError
from wbcnets.layers.kan import KAN, KANLinear
from wbcnets.ops.kan_spline import bspline_bases

NAMES = ("base_weight", "spline_weight", "spline_scaler")


@pytest.mark.parametrize("power", [0, 1, 2, 3])
@pytest.mark.parametrize("grid_eps", [0.02, 1.0])
def test_update_grid_keeps_what_the_new_splines_can_express(power, grid_eps):
    layer = KANLinear(2, 3, grid_range=(-3.0, 3.0), dtype=torch.float64)
    # Polynomials up to the third degree are splines on every grid; the coefficients of x^power are
    # the mean products of ``power`` of the three knots inside a basis' support.
    subsets = {0: [()], 1: [(0,), (1,), (2,)], 2: [(0, 1), (0, 2), (1, 2)], 3: [(0, 1, 2)]}[power]
    knots = layer.grid[0]
    inside = torch.stack([knots[1:9], knots[2:10], knots[3:11]])
    products = [inside[list(subset)].prod(dim=0) for subset in subsets]
    with torch.no_grad():
        layer.spline_weight.copy_(torch.stack(products).mean(dim=0).expand(3, 2, 8))
        layer.base_weight.zero_()
        layer.spline_scaler.fill_(0.5)
    x = random_rows(200, 2).clamp(-2.9, 2.9)
    torch.testing.assert_close(layer(x), 0.5 * (x**power).sum(dim=1, keepdim=True).expand(-1, 3))

    layer.update_grid(x, grid_eps=grid_eps)

    torch.testing.assert_close(
        layer(x), 0.5 * (x**power).sum(dim=1, keepdim=True).expand(-1, 3), rtol=1e-6, atol=1e-6
    )
    assert layer.uniform_grid is (grid_eps == 1.0)


def test_update_grid_is_the_best_fit_per_edge_and_leaves_the_rest():
    layer = layer_with_large_splines(2, 3)
    before = copy.deepcopy(layer)
    x = random_rows(30, 2).view(5, 6, 2)
    layer.update_grid(x)

    assert torch.equal(layer.base_weight, before.base_weight)
    assert torch.equal(layer.spline_scaler, before.spline_scaler)
    rows = x.reshape(-1, 2)
    for feature in range(2):
        one = slice(feature, feature + 1)
        old = bspline_bases(rows[:, one], before.grid[one])[:, 0]
        new = bspline_bases(rows[:, one], layer.grid[one])[:, 0]
        wanted = old @ before.spline_weight[:, feature].t()
        rest = wanted - new @ layer.spline_weight[:, feature].t()
        # What is left over is orthogonal to everything that the new bases could add
        torch.testing.assert_close(new.t() @ rest, torch.zeros(8, 3).double(), rtol=0, atol=1e-5)


def test_update_grid_follows_each_feature():
    layer = KANLinear(2, 1)
    x = torch.stack([torch.linspace(0, 1, 50), torch.linspace(-30, 70, 50)], dim=1)
    layer.update_grid(x, margin=0.0)
    torch.testing.assert_close(layer.grid[:, 3], torch.tensor([0.0, -30.0]))
    torch.testing.assert_close(layer.grid[:, 8], torch.tensor([1.0, 70.0]))


def test_update_grid_of_a_stack_shows_each_layer_its_own_inputs():
    kan = KAN([3, 4, 2], dropout=0.5, dtype=torch.float64)
    x = random_rows(60, 3)
    kan.update_grid(x, margin=0.0)
    hidden = kan.layers[0](x)
    torch.testing.assert_close(kan.layers[1].grid[:, 3], hidden.amin(dim=0))
    torch.testing.assert_close(kan.layers[1].grid[:, 8], hidden.amax(dim=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 40), st.floats(1e-3, 1e3), st.floats(-100, 100), st.integers(0, 1000))
def test_updated_grids_ascend_around_the_data(rows, scale, shift, seed):
    layer = layer_with_large_splines(2, 1)
    x = random_rows(rows, 2, seed=seed) * scale + shift
    layer.update_grid(x)
    assert (layer.grid.diff(dim=1) > 0).all()
    assert (layer.grid[:, 3] <= x.amin(dim=0)).all()
    assert (layer.grid[:, 8] >= x.amax(dim=0)).all()
    assert layer(x).isfinite().all()


def test_equal_inputs_are_held_apart_by_the_even_share_or_refused():
    x = torch.zeros(20, 2)
    layer = KANLinear(2, 1)
    layer.update_grid(x)
    assert layer(x).isfinite().all()
    before = copy.deepcopy(layer)
    with pytest.raises(DataError, match=r"knots of 2 features coincide.*larger grid_eps"):
        layer.update_grid(x, grid_eps=0.0)
    assert torch.equal(layer.grid, before.grid)
    assert torch.equal(layer.spline_weight, before.spline_weight)


@pytest.mark.parametrize(
    ("make", "keywords", "error", "message"),
    [
        (lambda: torch.randn(7, 2), {}, DataError, "7 rows cannot determine 8 bases"),
        (lambda: torch.randn(0, 2), {}, DataError, "0 rows"),
        (lambda: torch.randn(9, 2) / 0, {}, DataError, "18 of 18 inputs are not finite"),
        (lambda: torch.randn(9, 3), {}, ConfigError, "x has 3 features, the layer takes 2"),
        (lambda: torch.randn(9, 2, device="meta"), {}, ConfigError, "meta device"),
        (lambda: torch.randn(9, 2), {"margin": -1.0}, ConfigError, "margin=-1.0"),
        (lambda: torch.randn(9, 2), {"grid_eps": 1.5}, ConfigError, "grid_eps=1.5"),
        (lambda: torch.randn(9, 2), {"grid_eps": float("nan")}, ConfigError, "grid_eps=nan"),
    ],
)
def test_update_grid_refuses(make, keywords, error, message):
    with pytest.raises(error, match=message):
        KANLinear(2, 1).update_grid(make(), **keywords)


def test_update_grid_refuses_a_meta_layer():
    with pytest.raises(ConfigError, match="meta device"):
        KANLinear(2, 1, device="meta").update_grid(torch.randn(9, 2))


def test_loading_finds_out_whether_the_grid_is_even():
    even, uneven = layer_with_large_splines(4, 3), uneven_layer(4, 3)
    x = random_rows(6, 4)
    for source in (uneven, even, uneven):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        even_before = KANLinear(4, 3, dtype=torch.float64)
        even_before.load_state_dict(torch.load(file, weights_only=True))
        assert even_before.uniform_grid is source.uniform_grid
        torch.testing.assert_close(even_before(x), source(x))

    # A file in half precision: knots are even except for its rounding
    half = {name: tensor.half() for name, tensor in even.state_dict().items()}
    target = KANLinear(4, 3)
    for assign in (False, True):
        target.load_state_dict(half, assign=assign)
        assert target.uniform_grid
        assert target.grid.dtype == torch.float32


def test_loading_without_a_grid_keeps_the_present_one():
    layer = uneven_layer(4, 3)
    knots = layer.grid.clone()
    source = {name: getattr(KANLinear(4, 3), name).detach() for name in NAMES}
    assert layer.load_state_dict(source, strict=False).missing_keys == ["grid"]
    assert torch.equal(layer.grid, knots)
    assert not layer.uniform_grid


def test_loading_refuses_wrong_grids():
    with pytest.raises(RuntimeError, match="size mismatch for grid"):
        KANLinear(4, 3).load_state_dict(KANLinear(4, 3, grid_size=7).state_dict())
    for damage in (lambda grid: grid.flip(1), lambda grid: grid / 0):
        damaged = KANLinear(4, 3).state_dict()
        damaged["grid"] = damage(damaged["grid"])
        with pytest.raises(RuntimeError, match="knots must be finite and ascend"):
            KANLinear(4, 3).load_state_dict(damaged)


def test_refresh_after_a_change_from_outside():
    layer, source = layer_with_large_splines(4, 3), uneven_layer(4, 3)
    with torch.no_grad():
        for mine, theirs in zip(layer.state_dict().values(), source.state_dict().values()):
            mine.copy_(theirs)
    layer.refresh_grid()
    x = random_rows(6, 4)
    torch.testing.assert_close(layer(x), source(x))
