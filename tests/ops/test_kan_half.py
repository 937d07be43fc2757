"""Splines with half products: errors of a few roundings against float64."""

import copy

import pytest
import torch

from tests.ops.splines import random_rows, uneven_grid, uniform_grid, weights
from wbcnets.layers.kan import KAN
from wbcnets.ops import autocast
from wbcnets.ops.kan_spline import bspline_bases, kan_spline, plain_spline, recompute
from wbcnets.ops.kan_spline.cox_de_boor import cox_de_boor_bases_and_slopes

HALF = [torch.bfloat16, torch.float16]
FEATURES, OUTPUTS, WIDTH = 24, 16, 10
GRIDS = {"uniform": uniform_grid(FEATURES), "uneven": uneven_grid(FEATURES)}


@pytest.fixture(params=["C++", "Python"])
def both_forms(request, monkeypatch):
    """Runs a test with the C++ loops, where there are any, and with their form in Python."""
    if request.param == "Python":
        monkeypatch.setattr(recompute, "find_native", lambda *arguments: None)


@pytest.fixture
def cpu_without_half(monkeypatch):
    monkeypatch.setattr(autocast, "_cpu_multiplies", lambda dtype: False)


@pytest.fixture
def cpu_with_half(monkeypatch):
    monkeypatch.setattr(autocast, "_cpu_multiplies", lambda dtype: True)


def arguments(kind, dtype=torch.float32):
    """Inputs, knots, parameters and the linear part: no half numbers, except their gradient."""
    generator = torch.Generator().manual_seed(4)
    linear = (torch.randn(70, WIDTH, generator=generator), torch.randn(OUTPUTS, WIDTH))
    tensors = (random_rows(70, FEATURES), GRIDS[kind], *weights(FEATURES, OUTPUTS), *linear)
    return [tensor.to(dtype) for tensor in tensors]


def spline(tensors, kind, dtype):
    *arguments, activated, base_weight = tensors
    linear = (activated, base_weight)
    return kan_spline(*arguments, uniform=kind == "uniform", linear=linear, dtype=dtype)


def exact_sums(tensors, grad):
    """Returns sums of absolute products, which rounding errors are relative to, in float64.

    Those of the result (R, O), of the inputs' gradient (R, I) and of the matrix (O, n, I).
    """
    x, grid, weight, scaler, activated, base_weight = (tensor.double() for tensor in tensors)
    bases, slopes = cox_de_boor_bases_and_slopes(x, grid, 3)  # (R, n, I)
    matrix = (weight * scaler.unsqueeze(-1)).abs()
    result = torch.einsum("rni,oin->ro", bases, matrix) + activated.abs() @ base_weight.abs().t()
    of_bases = torch.einsum("ro,oin->rni", grad.abs(), matrix)
    return (
        result,
        (of_bases * slopes.abs()).sum(dim=1),
        torch.einsum("ro,rni->oin", grad.abs(), bases),
    )


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", GRIDS)
def test_errors_are_a_few_roundings(monkeypatch, kind, dtype):
    monkeypatch.setattr(recompute, "CPU_BLOCK_PER_THREAD", 16 * FEATURES)  # several blocks
    tensors = [tensor.requires_grad_(index != 1) for index, tensor in enumerate(arguments(kind))]
    exact = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]
    found = spline(tensors, kind, dtype)
    expected = plain_spline(*exact[:4], 3, False, (exact[4], exact[5]))
    assert found.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    sums = exact_sums([tensor.detach() for tensor in tensors], grad.double())
    # Half a unit in the last place, and some room for the sums in float32
    rounding = 1.01 * torch.finfo(dtype).eps / 2
    # Both factors are rounded, and the result
    allowed = rounding * (2 * sums[0] + expected.detach().abs())
    assert ((found.double() - expected).abs() <= allowed).all()

    followed = [0, 2, 3]
    ours = torch.autograd.grad(found, [tensors[i] for i in followed], grad.to(found.dtype))
    right = torch.autograd.grad(expected, [exact[i] for i in followed], grad.double())
    # The matrix is rounded, and each gradient of a basis
    assert ((ours[0].double() - right[0]).abs() <= 2 * rounding * sums[1]).all()
    # The bases are rounded, and a block's product
    of_matrix = 2 * rounding * sums[2]
    scaler, weight = exact[3].detach(), exact[2].detach()
    assert ((ours[1].double() - right[1]).abs() <= of_matrix * scaler.abs()[..., None]).all()
    assert ((ours[2].double() - right[2]).abs() <= (of_matrix * weight.abs()).sum(dim=-1)).all()


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", GRIDS)
def test_bases_are_rounded_once(kind, dtype):
    x, grid = random_rows(200, 1, dtype=torch.float32), GRIDS[kind][:1].float()
    # Each output is one basis. Uniform knots leave a sixth to the weights, which are then exactly 1
    size = 6 if kind == "uniform" else 1
    weight = size * torch.eye(8)[:, None]
    found = kan_spline(x, grid, weight, torch.ones(8, 1), uniform=kind == "uniform", dtype=dtype)
    exact = size * bspline_bases(x.double(), grid.double())[:, 0]
    allowed = 1.01 * torch.finfo(dtype).eps / 2 * exact + 1e-6
    assert ((found.double() - exact).abs() <= allowed).all()
    assert ((found != 0).sum(dim=1) <= 4).all()


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("dtype", HALF)
def test_infinite_inputs_count_as_outside_and_nan_stays(dtype):
    # The first NaN has all bits set: rounding them up makes 0
    odd = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    x = torch.tensor([[float("inf"), -float("inf")], [3e38, -3e38], [0.0, 0.3], [0.1, 0.2]])
    x[2], x[3, 0] = odd, float("nan")
    weight, scaler = weights(dtype=torch.float32)
    x.requires_grad_()
    y = kan_spline(x, uniform_grid(dtype=torch.float32), weight, scaler, uniform=True, dtype=dtype)
    assert (y[:2] == 0).all()
    assert y[2:].isnan().all()
    (x_grad,) = torch.autograd.grad(y[:2].sum(), x)
    assert (x_grad[:2] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e30])
def test_float16_holds_a_linear_part_of_any_size(scale):
    tensors = arguments("uniform")
    tensors[4] = tensors[4] * scale
    found = spline(tensors, "uniform", torch.float16)
    expected = spline([tensor.double() for tensor in tensors], "uniform", torch.float64)
    assert (found - expected).abs().max() <= 0.004 * expected.abs().max()


@pytest.mark.usefixtures("cpu_with_half")
@pytest.mark.parametrize("dtype", HALF)
def test_autocast_and_half_parameters_choose_half_products(dtype):
    x, grid, weight, scaler, *_ = arguments("uniform")
    plain = kan_spline(x, grid, weight, scaler, uniform=True)
    with torch.autocast("cpu", dtype):
        found = kan_spline(x, grid, weight, scaler, uniform=True)
        wide = kan_spline(x.double(), grid, weight, scaler, uniform=True)
    assert (plain.dtype, found.dtype, wide.dtype) == (torch.float32, dtype, torch.float64)
    chosen = kan_spline(x, grid, weight, scaler, uniform=True, dtype=dtype)
    assert torch.equal(found, chosen)
    half = (tensor.to(dtype) for tensor in (x, weight, scaler))
    x, weight, scaler = half
    found = kan_spline(x, grid, weight, scaler, uniform=True)
    assert found.dtype == dtype
    assert kan_spline(x, grid, weight, scaler.float(), uniform=True).dtype == torch.float32


@pytest.mark.usefixtures("cpu_without_half")
@pytest.mark.parametrize("dtype", HALF)
def test_cpus_without_half_products_keep_to_float32(dtype):
    x, grid, weight, scaler, *_ = arguments("uniform")
    with torch.autocast("cpu", dtype):
        found = kan_spline(x, grid, weight, scaler, uniform=True)
    assert torch.equal(found, kan_spline(x, grid, weight, scaler, uniform=True))


@pytest.mark.usefixtures("cpu_with_half")
@pytest.mark.parametrize("dtype", HALF)
def test_layers_run_in_half_compiled_copied_and_without_values(dtype):
    torch.manual_seed(0)
    kan = KAN([12, 6, 5])
    x = torch.randn(9, 12)
    with torch.autocast("cpu", dtype):
        expected = kan(x)
        compiled = torch.compile(kan, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=0.02, atol=0.01)
        assert torch.equal(copy.deepcopy(kan)(x), expected)
    half = copy.deepcopy(kan).to(dtype)
    y = half(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), kan(x), rtol=0.05, atol=0.02)
    exported = torch.export.export(half, (x.to(dtype),)).module()
    torch.testing.assert_close(exported(x.to(dtype)), y, rtol=0.02, atol=0.01)
    assert half.to("meta")(x.to("meta", dtype)).shape == (9, 5)


@pytest.mark.usefixtures("cpu_with_half")
@pytest.mark.parametrize("dtype", HALF)
def test_second_derivatives_exist_in_half(dtype):
    x, grid, weight, scaler, *_ = arguments("uniform")
    x.requires_grad_()
    y = kan_spline(x, grid, weight, scaler, uniform=True, dtype=dtype)
    (slope,) = torch.autograd.grad(y.float().sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    exact = x.detach().double().requires_grad_()
    y = kan_spline(exact, grid, weight, scaler, uniform=True)
    (slope,) = torch.autograd.grad(y.sum(), exact, create_graph=True)
    (expected,) = torch.autograd.grad(slope.sum(), exact)
    assert (curvature - expected).abs().max() <= 0.02 * expected.abs().max()
