import pytest
import torch
from torch import nn

from tests.reference import global_local_attention as reference
from wbcnets.errors import ConfigError
from wbcnets.layers.global_local_attention import GlobalLocalAttention, InvertedResidual

GRID = (2, 3)


def random_layer(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    for name, buffer in layer.named_buffers():
        if name.endswith("running_mean"):
            nn.init.uniform_(buffer, -0.5, 0.5)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    return layer


def random_tokens(dim=8, grid=GRID, batch=2, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(batch, 1 + grid[0] * grid[1], dim, dtype=dtype)


@pytest.mark.parametrize("squeeze_excite", [True, False])
def test_matches_the_reference(squeeze_excite):
    layer = GlobalLocalAttention(8, 2, squeeze_excite=squeeze_excite, dtype=torch.float64)
    layer = random_layer(layer).eval()
    tokens = random_tokens()

    output = layer(tokens, GRID)

    for image in range(2):
        expected = reference.global_local_attention(tokens[image], layer.state_dict(), 2, GRID)
        assert (expected - tokens[image]).abs().max() > 0.1
        torch.testing.assert_close(output[image], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_match_finite_differences(training):
    # SiLU, because h-swish has kinks and a second derivative of 0 beyond them.
    layer = GlobalLocalAttention(
        4, 2, expand_ratio=1.5, act_layer=nn.SiLU, dtype=torch.float64
    ).train(training)
    random_layer(layer)
    tokens = random_tokens(4).requires_grad_()
    names, parameters = zip(*layer.named_parameters())
    # Batch norm updates its running statistics in place at each call.
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def call(tokens, *values):
        state = dict(zip(names, values)) | {n: b.clone() for n, b in buffers.items()}
        return torch.func.functional_call(layer, state, (tokens, GRID))

    assert torch.autograd.gradcheck(call, (tokens, *parameters))


def test_gradients_of_the_default_activation_match_finite_differences():
    layer = random_layer(InvertedResidual(4, dtype=torch.float64)).eval()
    x = random_tokens(4).transpose(1, 2)[:, :, 1:].unflatten(2, GRID).clone().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_class_token_passes_by_the_local_part():
    layer = random_layer(GlobalLocalAttention(8, 2, dtype=torch.float64)).eval()
    tokens = random_tokens()
    attended = tokens + layer.attn(layer.norm(tokens))
    assert torch.equal(layer(tokens, GRID)[:, 0], attended[:, 0])


def test_the_local_part_sees_neighbors_and_no_others():
    layer = random_layer(InvertedResidual(4, squeeze_excite=False, dtype=torch.float64)).eval()
    x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 2, 2] += 1.0
    difference = (layer(changed) - layer(x)).abs().amax(dim=(0, 1))
    assert (difference[1:4, 1:4] > 1e-6).all()
    difference[1:4, 1:4] = 0.0
    assert difference.abs().max() == 0.0


def test_every_parameter_gets_a_gradient():
    layer = GlobalLocalAttention(16, 4)
    layer(random_tokens(16, dtype=torch.float32), GRID).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        if name != "attn.qkv.bias":  # its part for the keys shifts every score of a row alike
            assert parameter.grad.abs().max() > 0, name


def test_counts_parameters_with_and_without_squeeze_excite():
    def count(**options) -> int:
        layer = GlobalLocalAttention(64, 4, device="meta", **options)
        return sum(parameter.numel() for parameter in layer.parameters())

    attention = 4 * 64 * 64 + 4 * 64 + 2 * 64
    local = 2 * 64 * 256 + 9 * 256 + 2 * (256 + 256 + 64)
    assert count(squeeze_excite=False) == attention + local
    assert count() == attention + local + 2 * 256 * 64 + 256 + 64


@pytest.mark.parametrize(
    ("shape", "grid"), [((2, 6, 8), (2, 3)), ((2, 7, 8), (3, 3)), ((7, 8), (2, 3))]
)
def test_refuses_a_grid_that_does_not_fit(shape, grid):
    layer = GlobalLocalAttention(8, 2)
    with pytest.raises(ConfigError, match=f"grid of {grid[0]} x {grid[1]} .*class token first"):
        layer(torch.zeros(shape), grid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"expand_ratio": 0.5}, "expand_ratio=0.5"),
        ({"squeeze_ratio": 0}, "squeeze_ratio=0"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GlobalLocalAttention(8, **({"num_heads": 2} | arguments))


def test_is_made_on_the_meta_device_and_runs_there():
    layer = GlobalLocalAttention(8, 2, device="meta", dtype=torch.float16)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert {p.dtype for p in layer.parameters()} == {torch.float16}
    output = layer(torch.empty(2, 7, 8, device="meta", dtype=torch.float16), GRID)
    assert output.shape == (2, 7, 8)


def test_compiles_whole_and_exports():
    layer = random_layer(GlobalLocalAttention(8, 2)).eval()
    tokens = random_tokens(dtype=torch.float32)
    expected = layer(tokens, GRID)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, GRID), expected)
    exported = torch.export.export(layer, (tokens, GRID)).module()
    torch.testing.assert_close(exported(tokens, GRID), expected)


def test_compiles_whole_under_autocast():
    layer = random_layer(GlobalLocalAttention(8, 2))
    tokens = random_tokens(dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(tokens, GRID), layer(tokens, GRID))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 6e4, 1e8])
def test_autocast_trains_with_finite_numbers_at_every_scale(dtype, scale):
    torch.manual_seed(0)
    layer = GlobalLocalAttention(64, 4)
    tokens = (random_tokens(64, dtype=torch.float32) * scale).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = layer(tokens, GRID)
    output.mean().backward()
    for tensor in (output, tokens.grad, *(p.grad for p in layer.parameters())):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 6e4, 1e8])
def test_autocast_predicts_what_float32_does_at_every_scale(dtype, scale):
    torch.manual_seed(0)
    layer = GlobalLocalAttention(64, 4).eval()
    tokens = random_tokens(64, dtype=torch.float32) * scale
    expected = layer(tokens, GRID)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(tokens, GRID)
    assert (output - expected).abs().max() <= 0.02 * expected.abs().max()
