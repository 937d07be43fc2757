"""The Triton kernels in Triton's interpreter, which runs on CPUs, and on a GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wbcnets.ops.kan_spline import kan_spline
from wbcnets.ops.ms_deform_attn import ms_deform_attn, select_backend
from wbcnets.ops.triton_switch import wants_triton

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# A separate process: Triton decides once between compiling and interpreting
INTERPRETED = """
import torch
from tests.ops import triton_checks
for name in {names!r}:
    print(name, flush=True)
    getattr(triton_checks, name)(torch.device("cpu"))
"""
CHECKS = ["check_attention", "check_attention_special_points", "check_kan"]


def test_interpreted():
    finished = subprocess.run(
        [sys.executable, "-c", INTERPRETED.format(names=CHECKS)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=os.path.join(os.path.dirname(__file__), "..", ".."),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.split() == CHECKS


def test_operators_know_their_shapes_without_a_gpu(monkeypatch):
    monkeypatch.setenv("WBCNETS_TRITON", "1")
    with FakeTensorMode(), torch.no_grad():
        value = torch.empty(2, 14, 3, 8, device="cuda", dtype=torch.bfloat16)
        locations = torch.empty(2, 5, 3, 2, 4, 2, device="cuda")
        weights = torch.empty(2, 5, 3, 2, 4, device="cuda")
        out = ms_deform_attn(value, [(3, 4), (1, 2)], locations, weights)
        assert (out.shape, out.dtype) == ((2, 5, 24), torch.bfloat16)
        grads = torch.ops.wbcnets.ms_deform_attn_backward(
            out, value, [3, 4, 1, 2], locations, weights
        )
        for grad, tensor in zip(grads, (value, locations, weights)):
            assert (grad.shape, grad.dtype) == (tensor.shape, tensor.dtype)

        x, grid = torch.empty(2, 7, 6, device="cuda"), torch.empty(6, 12, device="cuda")
        weight, scaler = torch.empty(4, 6, 8, device="cuda"), torch.empty(4, 6, device="cuda")
        y = kan_spline(x, grid, weight, scaler, uniform=True, linear=(x, scaler))
        assert y.shape == (2, 7, 4)
        rows = x.view(14, 6)
        grads = torch.ops.wbcnets.kan_spline_backward(y.view(14, 4), rows, grid, weight, scaler)
        assert [g.shape for g in grads] == [rows.shape, weight.shape, scaler.shape]


def test_kernels_have_to_be_asked_for(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.delenv("WBCNETS_MSDA", raising=False)
    monkeypatch.delenv("WBCNETS_TRITON", raising=False)
    assert select_backend(gpu) == "grid_sample"
    monkeypatch.setenv("WBCNETS_TRITON", "1")
    assert select_backend(gpu) == "fused"
    assert not wants_triton(torch.device("cpu"))


@NEEDS_GPU
@pytest.mark.parametrize("name", CHECKS)
def test_compiled(name):
    from tests.ops import triton_checks

    check = getattr(triton_checks, name)
    check(torch.device("cuda"))
