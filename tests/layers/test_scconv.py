import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import scconv as reference
from wbcnets.errors import ConfigError
from wbcnets.layers.scconv import CRU, SRU, SCConv


def random_layer(layer: nn.Module) -> nn.Module:
    """Draws weights of both signs; the gammas do not sum to 0."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.5, 1.0)
    return layer


def random_map(channels=16, height=3, width=4, batch=2, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(batch, channels, height, width, dtype=dtype)


@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (8, 2), (6, 3)])
def test_sru_matches_the_reference(gate, channels, groups):
    layer = random_layer(SRU(channels, groups, gate=gate, dtype=torch.float64))
    features = random_map(channels)

    output = layer(features)

    for image in range(2):
        expected = reference.sru(features[image], layer.state_dict(), groups, gate)
        assert (expected - features[image]).abs().max() > 0.1
        torch.testing.assert_close(output[image], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", ["joint", "pairwise"])
@pytest.mark.parametrize("channels", [16, 12, 2])
def test_cru_matches_the_reference(fusion, channels):
    layer = random_layer(CRU(channels, fusion=fusion, dtype=torch.float64))
    features = random_map(channels)

    output = layer(features)

    for image in range(2):
        expected = reference.cru(features[image], layer.state_dict(), fusion)
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(output[image], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["soft", "hard"])
def test_scconv_is_the_sru_and_then_the_cru(gate):
    layer = random_layer(SCConv(16, gate=gate, dtype=torch.float64))
    features = random_map()
    output = layer(features)
    for image in range(2):
        expected = reference.scconv(features[image], layer.state_dict(), 16, gate)
        torch.testing.assert_close(output[image], expected, rtol=1e-12, atol=1e-12)


def test_gates_follow_a_hand_worked_example():
    layer = SRU(2, num_groups=1, dtype=torch.float64)
    layer.norm.eps = 0.0
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([3.0, 1.0]))
    features = torch.tensor([[[[1.0, 3.0]], [[1.0, 3.0]]]], dtype=torch.float64)

    informative, redundant = layer.gates(features)

    # Mean 2, deviation 1: the normalized values are -1 and 1, times gamma -3, 3 and -1, 1
    # Fractions 3/4 and 1/4: sigmoid(-9/4) = 0.0953495 and sigmoid(-1/4) = 0.4378235; the others are
    # above the threshold.
    first = torch.tensor([[[[0.0953495, 1.0]], [[0.4378235, 1.0]]]], dtype=torch.float64)
    second = torch.tensor([[[[0.0953495, 0.0]], [[0.4378235, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(informative, first, rtol=0, atol=1e-7)
    torch.testing.assert_close(redundant, second, rtol=0, atol=1e-7)


def test_hard_gates_part_every_value_and_are_frozen():
    layer = random_layer(SRU(16, gate="hard", dtype=torch.float64))
    features = random_map()
    informative, redundant = layer.gates(features)
    assert set(informative.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(informative + redundant, torch.ones_like(features))
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("fusion", ["joint", "pairwise"])
def test_gradients_match_finite_differences(fusion):
    layer = random_layer(SCConv(4, num_groups=2, fusion=fusion, dtype=torch.float64))
    features = random_map(4, 2, 3).requires_grad_()
    names, parameters = zip(*layer.named_parameters())

    def call(features, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (features,))

    assert torch.autograd.gradcheck(call, (features, *parameters))


def test_every_parameter_gets_a_gradient_by_default():
    layer = SCConv(32)
    layer(random_map(32, dtype=torch.float32)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("scale", [0.0, 1e-8, -1e-8])
@pytest.mark.parametrize("gate", ["soft", "hard"])
def test_gammas_that_sum_to_nothing_keep_the_gates_finite(gate, scale):
    layer = SCConv(16, gate=gate)
    with torch.no_grad():
        layer.sru.norm.weight.copy_(torch.linspace(-1, 1, 16) + scale)
        layer.sru.norm.bias.uniform_(-1, 1)
    features = random_map(dtype=torch.float32).requires_grad_()
    output = layer(features)
    output.square().sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.requires_grad]
    for tensor in (output, features.grad, *gradients):
        assert torch.isfinite(tensor).all()
        assert tensor.abs().max() < 1e6


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_near_nothing_is_kept_off_it_on_its_own_side(sign):
    layer = SRU(2, num_groups=1, dtype=torch.float64)
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([1.0 + sign * 1e-6, -1.0]))
    fraction = layer._gamma_fractions(torch.float64)[0].item()
    # A mean of 1e-4 over two channels is a sum of 2e-4.
    assert fraction == pytest.approx(sign / 2e-4, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_keeps_the_shape_for_every_width_that_is_even_and_a_multiple_of_its_groups(data):
    groups = data.draw(st.integers(1, 20), "groups")
    channels = groups * data.draw(st.integers(1, 6), "channels per group")
    if channels % 2:
        channels *= 2
    size = [data.draw(st.integers(1, 5), side) for side in ("height", "width")]
    features = torch.randn(2, channels, *size)
    for gate in ("soft", "hard"):
        output = SCConv(channels, num_groups=groups, gate=gate)(features)
        assert output.shape == features.shape
        assert torch.isfinite(output).all()


@settings(max_examples=40, deadline=None)
@given(channels=st.integers(-3, 200), groups=st.integers(-1, 20))
def test_refuses_every_other_width(channels, groups):
    if groups > 0 and channels > 0 and channels % 2 == 0 and channels % groups == 0:
        SCConv(channels, num_groups=groups, device="meta")
        return
    for layer in (SRU, SCConv):
        with pytest.raises(ConfigError, match=f"channels={channels} must be even .*{groups}"):
            layer(channels, num_groups=groups, device="meta")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"gate": "medium"}, "'soft', 'hard'"),
        ({"alpha": 0.0}, "alpha=0.0 leaves 0 and 16"),
        ({"alpha": 1.5}, "both parts"),
        ({"kernel_size": 2}, "kernel_size=2"),
        ({"squeeze_ratio": 0}, "squeeze_ratio=0"),
        ({"fusion": "sum"}, "'joint', 'pairwise'"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SCConv(16, **arguments)


def test_is_made_on_the_meta_device_and_runs_there():
    layer = SCConv(32, device="meta", dtype=torch.float16)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert {p.dtype for p in layer.parameters()} == {torch.float16}
    output = layer(torch.empty(2, 32, 4, 4, device="meta", dtype=torch.float16))
    assert output.shape == (2, 32, 4, 4)
    assert output.dtype == torch.float16


@pytest.mark.parametrize("gate", ["soft", "hard"])
def test_compiles_whole_and_exports(gate):
    layer = random_layer(SCConv(16, gate=gate)).eval()
    features = random_map(dtype=torch.float32)
    expected = layer(features)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), expected)
    exported = torch.export.export(layer, (features,)).module()
    torch.testing.assert_close(exported(features), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 6e4])
def test_autocast_is_finite_at_every_scale(dtype, gate, scale):
    layer = SCConv(32, gate=gate)
    features = (random_map(32, dtype=torch.float32).clamp(-1, 1) * scale).to(dtype)
    features.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = layer(features)
        assert layer.sru(features).dtype == torch.float32
        # Sums of bfloat16 have float32's range
        assert output.dtype == (torch.float32 if dtype == torch.float16 else dtype)
        output.sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.requires_grad]
    for tensor in (output, features.grad, *gradients):
        assert torch.isfinite(tensor).all()
    expected = layer(features.float())
    tolerance = 1e-4 if dtype == torch.float16 else 0.01
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()


def test_bfloat16_parameters_give_bfloat16():
    layer = SCConv(32, dtype=torch.bfloat16)
    features = random_map(32, dtype=torch.bfloat16)
    assert layer.sru(features).dtype == layer(features).dtype == torch.bfloat16
