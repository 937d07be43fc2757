"""Checks of the Triton kernels, on a GPU or interpreted on a CPU."""

import torch

from wbcnets.ops.kan_spline.knots import uniform_knots
from wbcnets.ops.kan_spline.plain import plain_spline
from wbcnets.ops.ms_deform_attn.grid_sample import grid_sample_attention

SHAPES = [(6, 5), (3, 2), (1, 1)]
FLAT = [side for shape in SHAPES for side in shape]
TOKENS = sum(height * width for height, width in SHAPES)
# Inside, on edges and centers, exactly one pixel outside, further outside, and far away
SPECIAL = [0.37, 0.0, 1.0, 0.5, -0.125, 1.125, -0.25, 1.25, -7.0, 1e30, -1e30]
TYPES = [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]


def _attention_inputs(device, dim, queries, dtype):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, TOKENS, 3, dim, generator=generator)
    locations = torch.rand(2, queries, 3, len(SHAPES), 2, 2, generator=generator) * 1.5 - 0.25
    weights = torch.rand(2, queries, 3, len(SHAPES), 2, generator=generator)
    return value.to(device, dtype), locations.to(device), weights.to(device)


def _compare_attention(value, locations, weights, tolerance):
    from wbcnets.ops.ms_deform_attn.triton_kernels import triton_backward, triton_forward

    out = triton_forward(value, FLAT, locations, weights)
    assert out.dtype == value.dtype
    exact = [x.double().requires_grad_() for x in (value, locations, weights)]
    expected = grid_sample_attention(exact[0], SHAPES, *exact[1:])
    grad = torch.randn(expected.shape, dtype=torch.float64, device=value.device).to(value.dtype)
    grads = triton_backward(grad, value, FLAT, locations, weights)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    for found, right in zip((out, *grads), (expected, *wanted)):
        assert found.shape == right.shape
        difference = (found.double() - right).abs().max() / right.abs().max().clamp(min=1)
        assert difference <= tolerance, (found.dtype, difference)


def check_attention(device):
    for dtype, tolerance in TYPES:
        _compare_attention(*_attention_inputs(device, 24, 13, dtype), tolerance)
    # More queries than one program handles, and the channels of a detector
    _compare_attention(*_attention_inputs(device, 32, 70, torch.float32), 1e-5)


def check_attention_special_points(device):
    from wbcnets.ops.ms_deform_attn.triton_kernels import triton_backward, triton_forward

    value, locations, weights = _attention_inputs(device, 8, len(SPECIAL), torch.float32)
    for query, x in enumerate(SPECIAL):
        locations[:, query, ..., 0] = x
        locations[0, query, ..., 1] = x
    _compare_attention(value, locations, weights, 1e-5)

    locations[0, 2] = float("nan")
    out = triton_forward(value, FLAT, locations, weights)
    assert out[0, 2].isnan().all()
    assert torch.isfinite(out[1]).all()

    none = triton_forward(value, FLAT, locations[:, :0], weights[:, :0])
    assert none.shape == (2, 0, 24)
    grads = triton_backward(none, value, FLAT, locations[:, :0], weights[:, :0])
    assert (grads[0] == 0).all()


def check_kan(device):
    from wbcnets.ops.kan_spline.triton_kernels import triton_backward, triton_forward

    generator = torch.Generator().manual_seed(0)
    for rows, inputs, outputs in ((37, 19, 5), (3, 70, 130)):
        grid = uniform_knots(5, 3, (-1.0, 1.0)).repeat(inputs, 1)
        x = torch.randn(rows, inputs, generator=generator) * 1.5
        x[0, :6] = torch.tensor([-2.2, 2.2, 50.0, -1e30, float("inf"), 0.2])
        weight = torch.randn(outputs, inputs, 8, generator=generator)
        scaler = torch.randn(outputs, inputs, generator=generator)
        grad = torch.randn(rows, outputs, generator=generator)
        exact = [tensor.double().requires_grad_() for tensor in (x, weight, scaler)]
        expected = plain_spline(exact[0], grid.double(), exact[1], exact[2], 3, True)
        wanted = torch.autograd.grad(expected, exact, grad.double())
        x, grid, weight, scaler, grad = (t.to(device) for t in (x, grid, weight, scaler, grad))
        found = triton_forward(x, grid, weight, scaler)
        grads = triton_backward(grad, x, grid, weight, scaler)
        for ours, right in zip((found, *grads), (expected, *wanted)):
            difference = (ours.double().cpu() - right).abs().max() / right.abs().max().clamp(min=1)
            assert difference <= 1e-5, difference

    x[1, 3] = float("nan")
    found = triton_forward(x, grid, weight, scaler)
    assert found[1].isnan().all()
    assert torch.isfinite(found[2]).all()
