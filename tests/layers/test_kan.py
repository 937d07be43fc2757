import copy

import pytest
import torch
from torch import nn

from tests.layers.kan_layers import layer_with_large_splines, random_rows, uneven_layer
from tests.reference import kan as reference
from wbcnets.errors import ConfigError
from wbcnets.layers.kan import KAN, KANLinear

NAMES = ("base_weight", "spline_weight", "spline_scaler")


def layers():
    return {
        "default": layer_with_large_splines(3, 2),
        "uneven": uneven_layer(3, 2),
        "quadratic": layer_with_large_splines(3, 2, grid_size=3, spline_order=2),
        "uneven quadratic": uneven_layer(3, 2, grid_size=4, spline_order=2),
    }


def outputs_and_gradients(evaluate, x, layer):
    x = x.detach().clone().requires_grad_()
    y = evaluate(x)
    mixer = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    parameters = [getattr(layer, name) for name in NAMES]
    return [y.detach(), *torch.autograd.grad((y * mixer).sum(), [x, *parameters])]


@pytest.mark.parametrize("kind", layers())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_the_recursion_forward_and_backward(kind, dtype):
    layer = layers()[kind].to(dtype)
    inside_and_outside = random_rows(10, 3) * 1.5
    on_knots = layer.grid.double().t()
    x = torch.cat([inside_and_outside, on_knots]).to(dtype)
    exact = copy.deepcopy(layer).double()

    def definition(x):
        parameters = [getattr(exact, name) for name in NAMES]
        return reference.kan_linear(x, exact.grid, *parameters, exact.spline_order)

    found = outputs_and_gradients(layer, x, layer)
    expected = outputs_and_gradients(definition, x.double(), exact)
    for ours, theirs in zip(found, expected):
        assert ours.dtype == dtype
        # Relative to the largest: sums over rows grow with the mixer
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        difference = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        assert difference <= tolerance


@pytest.mark.parametrize("kind", layers())
def test_gradients_match_finite_differences(kind):
    layer = layers()[kind]
    x = (random_rows(3, 3, seed=4) * 1.5).requires_grad_()
    parameters = {name: getattr(layer, name) for name in NAMES}

    def evaluate(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values)), (x,))

    assert torch.autograd.gradcheck(evaluate, (x, *parameters.values()))


def test_worked_by_hand():
    layer = KANLinear(1, 1)
    with torch.no_grad():
        layer.base_weight.fill_(2.0)
        layer.spline_scaler.fill_(3.0)
        layer.spline_weight.zero_()
        layer.spline_weight[0, 0, 3] = 1.0
    # Basis 3 reaches from knot 3 at -1 to knot 7 at 0.6, its middle is knot 5 at -0.2, where a
    # cardinal cubic spline is 2/3; one knot from there it is 1/6.
    x = torch.tensor([[-0.2], [0.2], [0.6]])
    silu = [-0.0900332, 0.1099668, 0.3873938]
    expected = [2 * silu[0] + 2.0, 2 * silu[1] + 0.5, 2 * silu[2]]
    torch.testing.assert_close(layer(x), torch.tensor(expected)[:, None], rtol=0, atol=2e-6)


def test_names_and_shapes_of_the_released_code():
    kan = KAN([6, 4, 3])
    shapes = {name: tuple(tensor.shape) for name, tensor in kan.state_dict().items()}
    assert shapes == {
        "layers.0.base_weight": (4, 6),
        "layers.0.spline_weight": (4, 6, 8),
        "layers.0.spline_scaler": (4, 6),
        "layers.0.grid": (6, 12),
        "layers.1.base_weight": (3, 4),
        "layers.1.spline_weight": (3, 4, 8),
        "layers.1.spline_scaler": (3, 4),
        "layers.1.grid": (4, 12),
    }


def test_initial_sizes():
    torch.manual_seed(0)
    layer = KANLinear(100, 50, grid_size=4, scale_noise=0.2)
    # kaiming_uniform with a = sqrt(5) is uniform up to 1 / sqrt(fan_in)
    for weight, limit in [
        (layer.base_weight, 0.1),
        (layer.spline_scaler, 0.1),
        (layer.spline_weight, 0.025),
    ]:
        assert 0.98 * limit < weight.abs().max() <= limit
        assert weight.mean().abs() < 0.05 * limit


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (2, 3, 2, 4), (0, 4)])
def test_any_leading_shape(uneven, shape):
    layer = (uneven_layer if uneven else layer_with_large_splines)(4, 3)
    x = random_rows(*shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], 3)
    torch.testing.assert_close(y.reshape(-1, 3), layer(x.reshape(-1, 4)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_device_and_dtype(device):
    kan = KAN([4, 3, 2], device=device, dtype=torch.float64)
    assert {parameter.device.type for parameter in kan.parameters()} == {device}
    assert {tensor.dtype for tensor in kan.state_dict().values()} == {torch.float64}
    assert kan(torch.zeros(5, 4, device=device, dtype=torch.float64)).shape == (5, 2)


def test_meta_layer_becomes_real():
    layer = KANLinear(4, 3, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    torch.testing.assert_close(layer.grid, KANLinear(4, 3).grid)
    assert layer(torch.randn(5, 4)).isfinite().all()

    source = uneven_layer(4, 3)
    loaded = KANLinear(4, 3, device="meta", dtype=torch.float64)
    loaded.load_state_dict(source.state_dict(), assign=True)
    assert not loaded.uniform_grid
    x = random_rows(6, 4)
    torch.testing.assert_close(loaded(x), source(x))


def test_reset_goes_back_to_the_even_grid():
    layer = uneven_layer(4, 3)
    layer.reset_parameters()
    assert layer.uniform_grid
    torch.testing.assert_close(layer.grid, KANLinear(4, 3, dtype=torch.float64).grid)


def test_half_layers_keep_their_knots():
    layer = uneven_layer(4, 3, dtype=torch.float32)
    knots = layer.grid.clone()
    for dtype in (torch.float16, torch.bfloat16):
        half = copy.deepcopy(layer).to(dtype)
        assert half.spline_weight.dtype == dtype
        assert torch.equal(half.grid, knots)
        x = random_rows(6, 4, dtype=torch.float32)
        y = half(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    assert layer.double().grid.dtype == torch.float64


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e4, 1e30])
def test_autocast_is_finite_at_any_scale(uneven, dtype, scale):
    make = uneven_layer if uneven else layer_with_large_splines
    kan = nn.Sequential(make(6, 5, dtype=torch.float32), make(5, 4, dtype=torch.float32))
    x = (random_rows(8, 6, dtype=torch.float32) * scale).requires_grad_()
    with torch.autocast("cpu", dtype):
        y = kan(x)
        loss = (y / max(scale, 1)).square().mean()
    loss.backward()
    assert y.isfinite().all()
    for tensor in (x, *kan.parameters()):
        assert tensor.grad.isfinite().all()
    expected = kan(x)
    assert (y - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_takes_half_inputs(dtype):
    layer = layer_with_large_splines(6, 5, dtype=torch.float32)
    x = torch.tensor([[6e4, -6e4, 0.3, -1.0, 2.2, 1.0]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        y = layer(x)
    y.sum().backward()
    expected = layer.double()(x.detach().double())
    assert (y - expected).abs().max() <= 0.01 * expected.abs().max()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("layers", [[6, 4, 3], [6, 2]])
def test_every_parameter_gets_a_gradient(layers):
    torch.manual_seed(0)
    kan = KAN(layers)
    kan(torch.randn(64, 6)).square().sum().backward()
    for name, parameter in kan.named_parameters():
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("uneven", [False, True])
def test_compiles_as_one_graph(uneven):
    layer = (uneven_layer if uneven else layer_with_large_splines)(4, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = random_rows(5, 4)
    for ours, plain in zip(
        outputs_and_gradients(compiled, x, layer), outputs_and_gradients(layer, x, layer)
    ):
        torch.testing.assert_close(ours, plain)
    layer = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x.float()), layer(x.float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("uneven", [False, True])
def test_a_new_grid_reaches_the_compiled_layer(uneven):
    layer = layer_with_large_splines(4, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = random_rows(40, 4)
    compiled(x)
    layer.update_grid(x, grid_eps=0.3 if uneven else 1.0)
    assert layer.uniform_grid is not uneven
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
def test_exports_with_free_batch_and_length(uneven, strict):
    layer = (uneven_layer if uneven else layer_with_large_splines)(4, 3).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    program = torch.export.export(
        layer,
        (random_rows(2, 5, 4),),
        dynamic_shapes={"x": {0: batch, 1: length}},
        strict=strict,
    )
    x = random_rows(3, 7, 4)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_stack_of_layers():
    kan = KAN([4, 3, 2], dropout=0.5, dtype=torch.float64)
    x = random_rows(50, 4)
    torch.testing.assert_close(kan.eval()(x), kan.layers[1](kan.layers[0](x)))
    kan.train()
    assert not torch.equal(kan(x), kan(x))
    # Nothing is dropped from the inputs or the outputs
    single = KAN([4, 3], dropout=0.5, dtype=torch.float64)
    assert torch.equal(single(x), single.layers[0](x))


def test_base_activation():
    layer = KANLinear(3, 2, base_activation=nn.Identity, scale_noise=0.0)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x), x @ layer.base_weight.t())


def test_regularization_worked_by_hand():
    layer = KANLinear(2, 1, grid_size=1, spline_order=1)  # 2 bases
    with torch.no_grad():
        layer.spline_weight.copy_(torch.tensor([[[1.0, -1.0], [2.0, -4.0]]]))
    # Edges 1 and 3: L1 = 4; fractions 1/4 and 3/4: -(ln(1/4) / 4 + 3 ln(3/4) / 4) = 0.5623351
    torch.testing.assert_close(layer.regularization_loss(1.0, 0.0), torch.tensor(4.0))
    torch.testing.assert_close(layer.regularization_loss(0.0, 1.0), torch.tensor(0.5623351))
    torch.testing.assert_close(layer.regularization_loss(0.5, 2.0), torch.tensor(3.1246702))


def test_regularization_sums_over_layers_and_survives_zeros():
    kan = KAN([4, 3, 2])
    total = kan.layers[0].regularization_loss(0.3, 0.7) + kan.layers[1].regularization_loss(
        0.3, 0.7
    )
    torch.testing.assert_close(kan.regularization_loss(0.3, 0.7), total)
    with torch.no_grad():
        kan.layers[0].spline_weight.zero_()
        kan.layers[1].spline_weight[0, 0].zero_()
    kan.regularization_loss().backward()
    assert all(layer.spline_weight.grad.isfinite().all() for layer in kan.layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KANLinear(0, 2), "in_features.: 0"),
        (lambda: KANLinear(2, -1), "out_features.: -1"),
        (lambda: KANLinear(2, 1, grid_size=0), "grid_size.: 0"),
        (lambda: KANLinear(2, 1, spline_order=0), "spline_order.: 0"),
        (lambda: KANLinear(2, 1, grid_range=(1.0, 1.0)), "grid_range must be two finite"),
        (lambda: KANLinear(2, 1, grid_range=(0.0, float("inf"))), "grid_range must be two finite"),
        (lambda: KANLinear(2, 1, scale_noise=-0.1), "scale_noise must be finite"),
        (lambda: KAN([4]), "at least two widths"),
        (lambda: KAN([4, 2], dropout=1.5), "dropout must be between 0 and 1"),
    ],
)
def test_refuses_bad_arguments(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
