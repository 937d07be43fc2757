import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.splines import random_rows, uneven_grid, uniform_grid, weights
from tests.reference import kan as reference
from wbcnets.layers.kan import KANLinear
from wbcnets.ops.kan_spline import bspline_bases, kan_spline, plain_spline, recompute
from wbcnets.ops.kan_spline.cox_de_boor import cox_de_boor_bases_and_slopes
from wbcnets.ops.kan_spline.fused import fused_spline, has_loops
from wbcnets.ops.kan_spline.knots import are_uniform, uniform_knots

# On knots inside, at the ends of the range and of the extended grid, and outside of both
SPECIAL = [-1.0, 1.0, -0.6, 0.2, 0.0, -2.2, 2.2, -1.8, 1.4, 1.7, -2.19, 2.21, -3.0, 50.0]
SPECIAL += [1e30, -1e30]


def special_rows(features=2, dtype=torch.float64):
    return torch.tensor(SPECIAL, dtype=dtype)[:, None].repeat(1, features)


def plain_general(x, grid, weight, scaler, order, uniform):
    """The recursion, whatever the grid."""
    return plain_spline(x, grid, weight, scaler, order, False)


def outputs_and_gradients(evaluate, x, grid, weight, scaler, order, uniform):
    tensors = [tensor.clone().requires_grad_() for tensor in (x, weight, scaler)]
    y = evaluate(tensors[0], grid, tensors[1], tensors[2], order, uniform)
    mixer = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    # Order 0 has no slope, and its plain form no path to x
    gradients = torch.autograd.grad((y * mixer).sum(), tensors, materialize_grads=True)
    return [y.detach(), *gradients]


@pytest.fixture(params=["C++", "Python"])
def both_forms(request, monkeypatch):
    """Runs a test with the C++ loops, where there are any, and with their form in Python."""
    if request.param == "Python":
        monkeypatch.setattr(recompute, "find_native", lambda *arguments: None)


GRIDS = [
    pytest.param(uniform_grid(), 3, True, id="uniform cubic"),
    pytest.param(uniform_grid(), 3, False, id="uniform cubic by recursion"),
    pytest.param(uneven_grid(), 3, False, id="uneven cubic"),
    pytest.param(uniform_grid(size=1), 3, True, id="one interval"),
    pytest.param(uniform_grid(order=2), 2, True, id="uniform quadratic"),
    pytest.param(uneven_grid(order=1), 1, False, id="uneven linear"),
    pytest.param(uneven_grid(order=4), 4, False, id="uneven quartic"),
    pytest.param(uneven_grid(order=0), 0, False, id="uneven steps"),
]


@pytest.mark.parametrize("rows", [random_rows(), special_rows()], ids=["random", "special"])
@pytest.mark.parametrize(("grid", "order", "uniform"), GRIDS)
def test_bases_match_the_definition(rows, grid, order, uniform):
    found = bspline_bases(rows, grid, order, uniform=uniform)
    expected = reference.bases(rows, grid, order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_float32_bases_are_as_exact_as_their_inputs():
    grid = uniform_grid(1, dtype=torch.float32)
    x = torch.cat([torch.linspace(-2.5, 2.5, 4001), torch.tensor(SPECIAL)])[:, None]
    exact = bspline_bases(x.double(), uniform_grid(1), 3, uniform=False)
    for uniform in (True, False):
        found = bspline_bases(x, grid, 3, uniform=uniform)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)


def fast(x, grid, weight, scaler, order, uniform):
    return kan_spline(x, grid, weight, scaler, order, uniform=uniform)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("evaluate", [fast, plain_spline])
@pytest.mark.parametrize("rows", [random_rows(), special_rows()], ids=["random", "special"])
@pytest.mark.parametrize(("grid", "order", "uniform"), GRIDS)
def test_paths_match_the_recursion_forward_and_backward(evaluate, rows, grid, order, uniform):
    arguments = (rows, grid, *weights(bases=grid.shape[1] - order - 1), order, uniform)
    found = outputs_and_gradients(evaluate, *arguments)
    expected = outputs_and_gradients(plain_general, *arguments)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("uniform", [True, False])
def test_several_blocks_of_rows_equal_one(monkeypatch, uniform):
    arguments = (random_rows(11), uniform_grid(), *weights(), 3, uniform)
    expected = outputs_and_gradients(fast, *arguments)
    # 2 features: blocks of 3 rows, the last one of 2
    monkeypatch.setattr(recompute, "CPU_BLOCK_PER_THREAD", 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for ours, theirs in zip(outputs_and_gradients(fast, *arguments), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("grid", [uniform_grid(), uneven_grid()], ids=["uniform", "uneven"])
def test_gradients_match_finite_differences(grid):
    uniform = are_uniform(grid, torch.float64)
    tensors = [random_rows(4), *weights()]
    # Cubic pieces join with a continuous slope, so that knots need not be avoided
    tensors[0][0] = torch.tensor([0.2, 2.2])
    tensors = [tensor.requires_grad_() for tensor in tensors]

    def evaluate(x, weight, scaler):
        return kan_spline(x, grid, weight, scaler, uniform=uniform)

    assert torch.autograd.gradcheck(evaluate, tensors)


@pytest.mark.parametrize("uniform", [True, False])
def test_second_derivatives_match_finite_differences(uniform):
    tensors = [tensor.requires_grad_() for tensor in (random_rows(3, seed=5), *weights(outputs=2))]

    def evaluate(x, weight, scaler):
        return kan_spline(x, uniform_grid(), weight, scaler, uniform=uniform)

    assert torch.autograd.gradgradcheck(evaluate, tensors)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("constant", [0, 1, 2])
def test_second_derivatives_leave_out_constants(uniform, constant):
    tensors = [*(random_rows(3, seed=5), *weights(outputs=2))]
    followed = [tensor.requires_grad_() for i, tensor in enumerate(tensors) if i != constant]

    def evaluate(*_):
        return kan_spline(tensors[0], uniform_grid(), *tensors[1:], uniform=uniform)

    assert torch.autograd.gradgradcheck(evaluate, followed)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("evaluate", [kan_spline, plain_spline])
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("leading", [(12,), (3, 4)])
def test_the_linear_part_is_added(evaluate, uniform, leading):
    x, grid, (weight, scaler) = random_rows().view(*leading, 2), uniform_grid(), weights()
    generator = torch.Generator().manual_seed(3)
    linear = [
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((*leading, 5), (3, 5))
    ]
    tensors = [tensor.requires_grad_() for tensor in (x, weight, scaler, *linear)]
    found = evaluate(x, grid, weight, scaler, 3, uniform=uniform, linear=tuple(linear))
    expected = plain_general(x, grid, weight, scaler, 3, uniform) + linear[0] @ linear[1].t()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    mixer = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view_as(found)
    gradients = (torch.autograd.grad((y * mixer).sum(), tensors) for y in (found, expected))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("wide", range(6))
def test_the_result_has_the_widest_type_of_its_arguments(wide):
    generator = torch.Generator().manual_seed(3)
    linear = (torch.randn(12, 5, generator=generator), torch.randn(3, 5, generator=generator))
    single = [random_rows(), uniform_grid(), *weights(), *linear]
    single = [tensor.float() for tensor in single]
    mixed = [tensor.double() if i == wide else tensor for i, tensor in enumerate(single)]
    double = [tensor.double() for tensor in single]
    (found, expected) = (
        kan_spline(*arguments[:4], uniform=True, linear=tuple(arguments[4:]))
        for arguments in (mixed, double)
    )
    # Knots and the linear part follow the type of the spline
    widens = wide in (0, 2, 3)
    assert found.dtype == (torch.float64 if widens else torch.float32)
    tolerance = 1e-12 if widens else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_knots_count_as_uneven_unless_the_caller_knows_better():
    arguments = (random_rows(), uneven_grid(), *weights())
    torch.testing.assert_close(kan_spline(*arguments), plain_general(*arguments, 3, False))


@pytest.mark.parametrize("uniform", [True, False])
def test_slopes_are_those_of_autograd(uniform):
    x = random_rows(20).requires_grad_()
    grid = uniform_grid()
    _, slopes = cox_de_boor_bases_and_slopes(x.detach(), grid, 3)
    values = bspline_bases(x, grid, 3, uniform=uniform)
    for j in range(values.shape[-1]):
        (expected,) = torch.autograd.grad(values[..., j].sum(), x, retain_graph=True)
        torch.testing.assert_close(slopes[:, j], expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_inputs_count_as_outside_and_nan_stays(uniform, dtype):
    infinity = float("inf")
    x = torch.tensor(
        [[infinity, -infinity], [3e38, -3e38], [float("nan"), 0.3]], dtype=dtype
    ).requires_grad_()
    weight, scaler = weights(dtype=dtype)
    weight.requires_grad_()
    y = kan_spline(x, uniform_grid(dtype=dtype), weight, scaler, uniform=uniform)
    assert (y[:2] == 0).all()
    assert y[2].isnan().all()
    x_grad, weight_grad = torch.autograd.grad(y[:2].sum(), (x, weight))
    assert (x_grad[:2] == 0).all()
    assert (weight_grad[:, 1] == 0).all()  # the NaN went through feature 0 only


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("uniform", [True, False])
def test_keeps_only_its_arguments(uniform):
    x = random_rows(64).requires_grad_()
    grid = uniform_grid()
    weight, scaler = (tensor.requires_grad_() for tensor in weights())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.untyped_storage().data_ptr()) or tensor, lambda kept: kept
    ):
        kan_spline(x, grid, weight, scaler, uniform=uniform)
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, grid, weight, scaler)}
    own.add(0)  # of tensors without values
    assert kept
    assert set(kept) <= own


def test_repeated_knots_give_no_nan():
    # A clamped grid: the first basis is 1 at the left end
    grid = torch.tensor([[0.0, 0, 0, 0, 0.5, 1, 1, 1, 1]], dtype=torch.float64)
    x = (torch.arange(-5, 16, dtype=torch.float64) / 10)[:, None]
    values = bspline_bases(x, grid)
    torch.testing.assert_close(values, reference.bases(x, grid, 3), rtol=0, atol=1e-14)
    assert values[5, 0].tolist() == [1, 0, 0, 0, 0]
    arguments = (x, grid, *weights(1, 3, 5), 3, False)
    for ours, theirs in zip(
        outputs_and_gradients(fast, *arguments), outputs_and_gradients(plain_general, *arguments)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("both_forms")
def test_leading_shapes_and_no_rows():
    grid, (weight, scaler) = uniform_grid(), weights()
    x = random_rows(12)
    expected = kan_spline(x, grid, weight, scaler, uniform=True)
    for shape in [(12,), (3, 4), (2, 3, 2)]:
        found = kan_spline(x.view(*shape, 2), grid, weight, scaler, uniform=True)
        torch.testing.assert_close(found, expected.view(*shape, 3))
    torch.testing.assert_close(kan_spline(x[0], grid, weight, scaler, uniform=True), expected[0])
    transposed = x.view(3, 4, 2).transpose(0, 1)  # not contiguous
    torch.testing.assert_close(
        kan_spline(transposed, grid, weight, scaler, uniform=True),
        expected.view(3, 4, 3).transpose(0, 1),
    )
    for uniform in (True, False):
        empty = x[:0].clone().requires_grad_()
        y = kan_spline(empty, grid, weight.requires_grad_(), scaler, uniform=uniform)
        assert y.shape == (0, 3)
        y.sum().backward()
        assert (weight.grad == 0).all()


@pytest.mark.parametrize(
    ("x", "weight", "scaler", "message"),
    [
        ((4, 3), (3, 2, 8), (3, 2), "x has 3 features"),
        ((4, 2), (3, 2, 7), (3, 2), "spline_weight has shape"),
        ((4, 2), (3, 2, 8), (2, 3), "spline_scaler has shape"),
    ],
)
def test_refuses_shapes_that_do_not_fit(x, weight, scaler, message):
    with pytest.raises(ValueError, match=message):
        kan_spline(torch.zeros(x), uniform_grid(), torch.zeros(weight), torch.zeros(scaler))


@st.composite
def grids(draw):
    """Order, whether the closed form may be used, and knots of one feature."""
    order = draw(st.integers(1, 5))
    size = draw(st.integers(1, 8))
    if draw(st.booleans()):
        low = draw(st.floats(-5, 5))
        high = low + draw(st.floats(0.1, 10))
        return order, True, uniform_knots(size, order, (low, high), dtype=torch.float64)[None]
    steps = draw(st.lists(st.floats(0.01, 2), min_size=size + 2 * order, max_size=size + 2 * order))
    start = draw(st.floats(-5, 5))
    knots = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0) + start
    return order, False, knots[None]


@settings(max_examples=80, deadline=None)
@given(grids(), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_bases_sum_to_one_inside_and_are_never_negative(grid, fractions):
    order, uniform, knots = grid
    low, high = knots[0, order], knots[0, -1 - order]
    x = (low + torch.tensor(fractions, dtype=torch.float64) * (high - low))[:, None]
    values = bspline_bases(x, knots, order, uniform=uniform)
    assert values.shape == (len(fractions), 1, knots.shape[1] - order - 1)
    torch.testing.assert_close(values.sum(-1), torch.ones_like(x), rtol=0, atol=1e-9)
    assert (values >= -1e-12).all()
    # A point lies in the supports of order + 1 bases
    assert ((values > 0).sum(-1) <= order + 1).all()


@settings(max_examples=80, deadline=None)
@given(grids(), st.lists(st.floats(0, 1e300), min_size=1, max_size=8), st.booleans())
def test_bases_are_zero_outside_the_extended_grid(grid, distances, left):
    order, uniform, knots = grid
    away = torch.tensor(distances, dtype=torch.float64)[:, None]
    x = knots[0, 0] - away if left else knots[0, -1] + away
    assert bspline_bases(x, knots, order, uniform=uniform).abs().max() < 1e-12


@pytest.mark.long
@pytest.mark.skipif(not has_loops(), reason="no compiled loops on this machine")
def test_compilers_take_the_loops_and_exports_do_not():
    torch.manual_seed(0)
    layer = KANLinear(7, 5, device="cpu")
    compiled = torch.compile(layer, fullgraph=True)
    inputs = [torch.randn(3, 4, 7, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    results = []
    for network, x in zip((layer, compiled), inputs):
        layer.zero_grad(set_to_none=True)
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    torch.compile(layer, backend=keep, fullgraph=True)(inputs[0])
    # PyTorch 2.10 tells compilers that they export: they take the plain form then
    told = torch.compile(lambda x: x + torch.compiler.is_exporting(), backend="eager")
    assert ("wbcnets.kan_spline" in graphs[0]) == (told(torch.zeros(1)).item() == 0)
    exported = torch.export.export(layer, (inputs[0].detach(),))
    assert "wbcnets" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(inputs[0]), layer(inputs[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("with_linear", [True, False])
@pytest.mark.parametrize("leading", [(12,), (3, 4)])
def test_the_operator_matches_the_plain_form(with_linear, leading):
    tensors = [random_rows().view(*leading, 2), *weights()]
    if with_linear:
        generator = torch.Generator().manual_seed(3)
        shapes = ((*leading, 5), (3, 5))
        tensors += [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    x, weight, scaler, *others = (tensor.requires_grad_() for tensor in tensors)
    linear = tuple(others) or None
    nothing = (x.new_empty(*leading, 0), scaler[:, :0])
    found = fused_spline(x, uniform_grid(), weight, scaler, linear or nothing, torch.float64, False)
    expected = plain_spline(x, uniform_grid(), weight, scaler, 3, True, linear)
    mixer = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view(found.shape)
    gradients = (torch.autograd.grad((y * mixer).sum(), tensors) for y in (found, expected))
    for ours, theirs in zip((found, *next(gradients)), (expected, *next(gradients))):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(not has_loops(), reason="no compiled loops on this machine")
def test_the_operator_keeps_its_promises_to_pytorch():
    torch.manual_seed(0)
    grid = torch.linspace(-2, 2, 12, dtype=torch.float64).expand(3, -1).contiguous()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    scaler = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    base = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    activated = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    for silu in (False, True):
        torch.library.opcheck(
            torch.ops.wbcnets.kan_spline.default,
            (x, grid, weight, scaler, activated, base, torch.float64, silu),
        )


@pytest.mark.parametrize("uniform", [True, False])
def test_silu_is_applied_to_the_linear_part_only(uniform):
    x, weight, scaler, linear_x, base = (
        tensor.requires_grad_()
        for tensor in (random_rows(), *weights(), random_rows(12, 5, seed=7), *weights(1, 3, 5)[:1])
    )
    base = base[:, 0]

    def evaluate(silu, inputs):
        return kan_spline(
            x, uniform_grid(), weight, scaler, uniform=uniform, linear=(inputs, base), silu=silu
        )

    found, expected = evaluate(True, linear_x), evaluate(False, torch.nn.functional.silu(linear_x))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    tensors = (x, weight, scaler, linear_x, base)
    gradients = (torch.autograd.grad(y.square().sum(), tensors) for y in (found, expected))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
