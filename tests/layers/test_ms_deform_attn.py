import math

import pytest
import torch

from tests.reference import ms_deform_attn_reference
from wbcnets.layers.ms_deform_attn import MultiScaleDeformableAttention
from wbcnets.ops.ms_deform_attn.native import is_available

SHAPES = [(4, 6), (2, 3)]
TOKENS = 30
BACKENDS = ["bag", "grid_sample", *(["fused"] if is_available() else [])]


def layer(backend=None, dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(
        16, num_heads=4, num_levels=2, num_points=3, backend=backend, dtype=dtype, **options
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def inputs(dtype=torch.float64, reference_size=2):
    torch.manual_seed(1)
    query = torch.randn(2, 5, 16, dtype=dtype)
    reference_points = torch.rand(2, 5, 2, reference_size, dtype=dtype)
    value = torch.randn(2, TOKENS, 16, dtype=dtype)
    return query, reference_points, value


def by_hand(module, query, reference_points, value, padding_mask):
    """The layer's formula with the loop in place of the sampling."""
    projected = module.value_proj(value)
    projected = torch.where(padding_mask[..., None], torch.zeros_like(projected), projected)
    offsets = module.sampling_offsets(query).view(2, 5, 4, 2, 3, 2)
    weights = module.attention_weights(query).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 2, 3)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(SHAPES):
        reference = reference_points[:, :, None, level, None]  # (B, Q, 1, 1, 2 or 4)
        if reference.shape[-1] == 2:
            step = torch.tensor([1 / width, 1 / height], dtype=query.dtype)
        else:
            step = reference[..., 2:] / 2 / 3
        locations[:, :, :, level] = reference[..., :2] + offsets[:, :, :, level] * step
    sampled = ms_deform_attn_reference.ms_deform_attn(
        projected.view(2, TOKENS, 4, 4), SHAPES, locations, weights
    )
    return module.output_proj(sampled)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reference_size", [2, 4])
def test_matches_the_formula(backend, reference_size):
    module = layer(backend)
    query, reference_points, value = inputs(reference_size=reference_size)
    padding_mask = torch.rand(2, TOKENS) > 0.7
    output = module(query, reference_points, value, SHAPES, padding_mask)
    expected = by_hand(module, query, reference_points, value, padding_mask)
    assert output.shape == (2, 5, 16)
    assert torch.allclose(output, expected, rtol=0, atol=1e-12)


def test_padding_counts_as_zero():
    module = layer()
    query, reference_points, value = inputs()
    padding_mask = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding_mask[:, ::2] = True
    changed = value.clone()
    changed[:, ::2] += 100.0
    output = module(query, reference_points, value, SHAPES, padding_mask)
    assert torch.equal(output, module(query, reference_points, changed, SHAPES, padding_mask))
    assert not torch.allclose(output, module(query, reference_points, value, SHAPES))


def test_starts_on_rays_with_equal_weights():
    module = MultiScaleDeformableAttention(32, num_heads=8, num_levels=2, num_points=4)
    offsets = module.sampling_offsets.bias.view(8, 2, 4, 2)
    # Eight heads look right, down-right, down, ... ; point i lies i + 1 pixels away (max norm)
    for head in range(8):
        angle = head * math.pi / 4
        ray = torch.tensor([math.cos(angle), math.sin(angle)])
        ray = ray / ray.abs().max()
        for point in range(4):
            expected = (point + 1) * ray
            assert torch.allclose(offsets[head, :, point], expected.expand(2, 2), atol=1e-6)
    assert not module.sampling_offsets.weight.any()
    assert not module.attention_weights.weight.any()
    assert not module.attention_weights.bias.any()


def test_reset_parameters_restores_the_start():
    module = layer(dtype=torch.float32)
    module.reset_parameters()
    fresh = MultiScaleDeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    assert torch.equal(module.sampling_offsets.bias, fresh.sampling_offsets.bias)
    assert not module.value_proj.bias.any()


def test_gradcheck_of_the_layer():
    module = layer()
    query, reference_points, value = inputs()
    tensors = [x.requires_grad_() for x in (query, reference_points, value)]
    assert torch.autograd.gradcheck(
        lambda q, r, v: module(q, r, v, SHAPES), tensors, eps=1e-6, atol=1e-6
    )


def test_every_parameter_gets_a_gradient():
    module = layer()
    query, reference_points, value = inputs()
    module(query, reference_points, value, SHAPES).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_in_one_graph(backend):
    module = layer(backend, dtype=torch.float32)
    tensors = inputs(torch.float32)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    expected = module(*tensors, SHAPES)
    output = compiled(*tensors, SHAPES)
    assert torch.allclose(output, expected, atol=1e-5)
    expected_gradients = torch.autograd.grad(expected.sum(), list(module.parameters()))
    gradients = torch.autograd.grad(output.sum(), list(module.parameters()))
    for found, wanted in zip(gradients, expected_gradients):
        assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("requested", [None, "bag"])
def test_export_takes_grid_sample(requested, monkeypatch):
    if requested:
        monkeypatch.setenv("WBCNETS_MSDA", requested)
    module = layer(dtype=torch.float32).eval()
    tensors = inputs(torch.float32)

    class FixedShapes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = module

        def forward(self, query, reference_points, value):
            return self.attention(query, reference_points, value, SHAPES)

    program = torch.export.export(FixedShapes(), tensors)
    graphs = [m.graph for m in program.graph_module.modules() if hasattr(m, "graph")]
    operators = {str(node.target) for graph in graphs for node in graph.nodes}
    assert any("grid_sampler" in name for name in operators), operators
    assert not any("embedding_bag" in name for name in operators), operators
    expected = module(*tensors, SHAPES)
    assert torch.allclose(program.module()(*tensors), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layer_stays_near_float32(dtype):
    module = layer(dtype=torch.float32)
    query, reference_points, value = inputs(torch.float32)
    expected = module(query, reference_points, value, SHAPES)
    half = layer(dtype=torch.float32).to(dtype)
    # References stay in float32: a bfloat16 coordinate is off by more than a pixel
    output = half(query.to(dtype), reference_points, value.to(dtype), SHAPES)
    assert output.dtype == dtype
    assert (output - expected).abs().max() < 0.1 * expected.abs().max()


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=16"):
        MultiScaleDeformableAttention(16, num_heads=3)
    query, _, value = inputs()
    with pytest.raises(ValueError, match=r"must end in 2 \(point\) or 4 \(box\)"):
        layer()(query, torch.rand(2, 5, 2, 3, dtype=torch.float64), value, SHAPES)


def test_meta_device():
    module = MultiScaleDeformableAttention(16, 4, 2, 3, device="meta")
    assert {p.device.type for p in module.parameters()} == {"meta"}
