import pytest
import torch

from tests.reference import ms_deform_attn_reference
from wbcnets.errors import ConfigError
from wbcnets.ops import ms_deform_attn as ms_deform_attn_module
from wbcnets.ops.ms_deform_attn import BACKENDS, bag, ms_deform_attn, native, select_backend
from wbcnets.ops.ms_deform_attn.native import is_available

SHAPES = [(3, 5), (2, 2), (1, 3)]
CPU = torch.device("cpu")
USABLE = sorted(set(BACKENDS) - ({"fused"} if not is_available() else set()))

# Inside, on the map's outer edge, on a pixel's center (0.5 at width 5, where the slope jumps),
# exactly one pixel outside (-0.25 at width 2), further outside, and far away
SPECIAL = [0.37, 0.0, 1.0, 0.5, -0.125, 1.125, -0.25, 1.25, -7.0, 1e30, -1e30]


def inputs(dtype=torch.float64, batch=2, queries=4, heads=2, dim=3, points=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in SHAPES)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    value = random(batch, tokens, heads, dim) - 0.5
    # From a quarter of the map outside on one side to a quarter on the other
    locations = random(batch, queries, heads, len(SHAPES), points, 2) * 1.5 - 0.25
    weights = random(batch, queries, heads, len(SHAPES), points)
    return tuple(x.to(dtype).requires_grad_() for x in (value, locations, weights))


def special_inputs(dtype=torch.float64):
    value, locations, weights = inputs(dtype, queries=len(SPECIAL))
    with torch.no_grad():
        for query, x in enumerate(SPECIAL):
            locations[:, query, ..., 0] = x
            locations[0, query, ..., 1] = x
    return value, locations, weights


def outputs_and_gradients(attend, value, locations, weights):
    output = attend(value, SHAPES, locations, weights)
    mixer = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    gradients = torch.autograd.grad((output * mixer).sum(), (value, locations, weights))
    return [output.detach(), *gradients]


def relative_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("make", [inputs, special_inputs])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_backend_matches_the_loop_forward_and_backward(backend, make, dtype, tolerance):
    tensors = make(dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]

    found = outputs_and_gradients(BACKENDS[backend], *tensors)
    expected = outputs_and_gradients(ms_deform_attn_reference.ms_deform_attn, *exact)

    for ours, reference in zip(found, expected):
        assert ours.dtype == dtype
        assert relative_difference(ours.double(), reference) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_backends_agree_on_a_realistic_size(dtype):
    shapes = [(30, 40), (15, 20), (8, 10), (4, 5)]
    tokens = sum(height * width for height, width in shapes)
    torch.manual_seed(0)
    tensors = (
        torch.randn(2, tokens, 8, 32, dtype=dtype, requires_grad=True),
        (torch.rand(2, 200, 8, 4, 4, 2, dtype=dtype) * 1.4 - 0.2).requires_grad_(),
        torch.randn(2, 200, 8, 16, dtype=dtype).softmax(-1).unflatten(-1, (4, 4)).requires_grad_(),
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    results = []
    for backend in ["grid_sample", *USABLE]:
        attend = BACKENDS[backend]
        output = attend(tensors[0], shapes, *tensors[1:])
        gradients = torch.autograd.grad(output.square().sum(), tensors)
        results.append([output, *gradients])
    expected, *found = results
    for result in found:
        for ours, reference in zip(result, expected):
            assert relative_difference(ours, reference) <= tolerance


def test_reference_on_a_hand_worked_point():
    # One 2x2 map of 1, 2, 3, 4. (0.5, 0.5) is its middle: the mean. (0.25, 0.25) is the center of
    # the first pixel. (0, 0) is its corner: a quarter of the first pixel, three quarters outside.
    value = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 4, 1, 1)
    points = torch.tensor([[0.5, 0.5], [0.25, 0.25], [0.0, 0.0]], dtype=torch.float64)
    locations = points.view(1, 3, 1, 1, 1, 2)
    weights = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64).view(1, 3, 1, 1, 1)
    expected = torch.tensor([2.5, 1.0, 0.5], dtype=torch.float64).view(1, 3, 1)
    for attend in (ms_deform_attn_reference.ms_deform_attn, *(BACKENDS[name] for name in USABLE)):
        assert torch.allclose(attend(value, [(2, 2)], locations, weights), expected, atol=1e-12)


@pytest.mark.parametrize("backend", USABLE)
def test_points_far_outside_read_zeros_and_get_finite_gradients(backend):
    value, locations, weights = inputs()
    with torch.no_grad():
        locations[..., 0] = 1e30
    output, *gradients = outputs_and_gradients(BACKENDS[backend], value, locations, weights)
    assert torch.equal(output, torch.zeros_like(output))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_nan_reaches_the_output(backend, broken):
    tensors = [x.detach().clone() for x in inputs()]
    if broken == 1:  # the coordinates; well inside, so that no other point hides it
        tensors[1][:] = 0.5
    tensors[broken][1] = float("nan")
    output = BACKENDS[backend](tensors[0], SHAPES, *tensors[1:])
    assert torch.isfinite(output[0]).all()
    assert output[1].isnan().all()


@pytest.mark.parametrize("backend", USABLE)
def test_the_layout_in_memory_does_not_matter(backend):
    tensors = inputs()
    expected = outputs_and_gradients(BACKENDS[backend], *tensors)
    # Dense, but with the last two axes swapped in memory
    turned = [x.detach().mT.contiguous().mT.requires_grad_() for x in tensors]
    found = outputs_and_gradients(BACKENDS[backend], *turned)
    for ours, reference in zip(found, expected):
        torch.testing.assert_close(ours, reference)


def test_rows_of_a_table_beyond_32_bits_do_not_overflow():
    locations, weights = torch.full((2, 1, 2, 1, 1, 2), 0.5), torch.ones(2, 1, 2, 1, 1)
    rows, _ = bag._corner_rows(2**30, [(1, 1)], locations, weights)
    # The first token of the second image, for both heads
    assert rows[1, 0, :, 0, 0].tolist() == [[2**31] * 4, [2**31 + 1] * 4]
    for tokens, index_type in ((2**29, torch.int64), (2**29 - 1, torch.int32)):
        assert bag._corner_rows(tokens, [(1, 1)], locations, weights)[0].dtype == index_type


def test_without_compiled_loops_the_operator_says_what_to_choose(monkeypatch):
    monkeypatch.setattr(native, "load_library", lambda name: None)
    tensors = [x.detach() for x in inputs()]
    with pytest.raises(RuntimeError) as caught:
        ms_deform_attn(tensors[0], SHAPES, *tensors[1:], backend="fused")
    assert str(caught.value) == (
        "backend 'fused' needs its compiled loops, which are switched off or could not be "
        "compiled (the log says why); choose backend='bag'"
    )


@pytest.mark.parametrize("backend", USABLE)
def test_gradcheck(backend):
    tensors = inputs(queries=2)
    assert torch.autograd.gradcheck(
        lambda *x: ms_deform_attn(x[0], SHAPES, x[1], x[2], backend), tensors, eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", USABLE)
def test_half_precision_values_sample_in_float32(dtype, backend):
    value, locations, weights = (x.detach() for x in inputs(torch.float32))
    output = ms_deform_attn(value.to(dtype), SHAPES, locations, weights, backend)
    expected = BACKENDS[backend](value.to(dtype).float(), SHAPES, locations, weights)
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))


@pytest.mark.parametrize("backend", USABLE)
def test_half_precision_points_and_weights_are_widened_too(backend):
    half = [x.detach().bfloat16() for x in inputs(torch.float32)]
    output = ms_deform_attn(half[0], SHAPES, *half[1:], backend)
    wide = [x.float() for x in half]
    assert torch.equal(output, BACKENDS[backend](wide[0], SHAPES, *wide[1:]).bfloat16())


@pytest.mark.parametrize("backend", USABLE)
def test_autocast_does_not_round_the_sampling(backend):
    tensors = [x.detach() for x in inputs(torch.float32)]
    expected = ms_deform_attn(tensors[0], SHAPES, *tensors[1:], backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn(tensors[0], SHAPES, *tensors[1:], backend)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("backend", USABLE)
def test_no_queries_and_no_images(backend):
    value, locations, weights = (x.detach() for x in inputs())
    empty = ms_deform_attn(value, SHAPES, locations[:, :0], weights[:, :0], backend)
    assert empty.shape == (2, 0, 6)
    empty = ms_deform_attn(value[:0], SHAPES, locations[:0], weights[:0], backend)
    assert empty.shape == (0, 4, 6)


def test_backend_by_device_environment_and_argument(monkeypatch):
    monkeypatch.delenv("WBCNETS_MSDA", raising=False)
    assert select_backend(CPU) == ("fused" if is_available() else "bag")
    assert select_backend(torch.device("cuda")) == "grid_sample"
    monkeypatch.setattr(ms_deform_attn_module, "is_available", lambda: False)
    assert select_backend(CPU) == "bag"
    monkeypatch.setenv("WBCNETS_MSDA", "grid_sample")
    assert select_backend(CPU) == "grid_sample"
    assert select_backend(CPU, "bag") == "bag"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend", [None, *USABLE])
def test_traces_hold_operators_that_every_runtime_knows(backend):
    tensors = [x.detach() for x in inputs()]
    traced = torch.jit.trace(lambda *x: ms_deform_attn(x[0], SHAPES, x[1], x[2], backend), tensors)
    assert str(traced.graph).count("aten::grid_sampler") == len(SHAPES)
    assert "wbcnets::" not in str(traced.graph)


def test_the_environment_decides_what_runs(monkeypatch):
    tensors = [x.detach() for x in inputs()]
    called = []
    monkeypatch.setitem(
        BACKENDS, "grid_sample", lambda *x: called.append("grid_sample") or BACKENDS["bag"](*x)
    )
    monkeypatch.setenv("WBCNETS_MSDA", "grid_sample")
    ms_deform_attn(tensors[0], SHAPES, *tensors[1:])
    assert called == ["grid_sample"]


def test_unknown_backend_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"backend='cuda' is unknown; use one of \['bag'"):
        select_backend(CPU, "cuda")
    monkeypatch.setenv("WBCNETS_MSDA", "fast")
    with pytest.raises(ConfigError, match="WBCNETS_MSDA='fast' is unknown"):
        select_backend(CPU)


def test_loops_for_cpus_are_refused_on_other_devices(monkeypatch):
    monkeypatch.setenv("WBCNETS_MSDA", "fused")
    with pytest.raises(ConfigError, match="WBCNETS_MSDA='fused' runs on CPUs only, not on cuda"):
        select_backend(torch.device("cuda"))
    assert select_backend(torch.device("meta")) == "fused"


def test_shapes_that_do_not_fit_are_refused():
    value, locations, weights = (x.detach() for x in inputs())
    with pytest.raises(ValueError, match="value has 21 tokens, but"):
        ms_deform_attn(value[:, 1:], SHAPES, locations, weights)
    with pytest.raises(ValueError, match="sampling_locations has shape"):
        ms_deform_attn(value, SHAPES, locations[..., :1], weights)
    with pytest.raises(ValueError, match="attention_weights has 1 levels, spatial_shapes 3"):
        ms_deform_attn(value, SHAPES, locations[:, :, :, :1], weights[:, :, :, :1])
