import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from wbcnets.ops import native
from wbcnets.ops.kan_spline import kan_spline, plain_spline
from wbcnets.ops.kan_spline.knots import uniform_knots
from wbcnets.ops.ms_deform_attn import ms_deform_attn, select_backend

SHAPES = [(4, 6), (2, 3)]
NEEDS_LOOPS = pytest.mark.skipif(
    native.load_library("kan_spline") is None, reason="no C++ compiler with OpenMP"
)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache folder; libraries loaded before are forgotten."""
    monkeypatch.setenv("WBCNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(native.ENVIRONMENT_VARIABLE, raising=False)
    native.load_library.cache_clear()
    yield tmp_path / "cache"
    native.load_library.cache_clear()


def attention_inputs():
    torch.manual_seed(0)
    tensors = (
        torch.randn(2, 30, 2, 5, dtype=torch.float64),
        torch.rand(2, 7, 2, 2, 3, 2, dtype=torch.float64),
        torch.rand(2, 7, 2, 2, 3, dtype=torch.float64),
    )
    return [tensor.requires_grad_() for tensor in tensors]


def attention_results():
    value, locations, weights = attention_inputs()
    out = ms_deform_attn(value, SHAPES, locations, weights)
    return [out, *torch.autograd.grad(out.square().sum(), (value, locations, weights))]


@NEEDS_LOOPS
def test_compiles_once_for_its_owner_only(fresh_cache):
    assert native.load_library("kan_spline") is not None
    (library,) = fresh_cache.iterdir()
    assert library.name.startswith("kan_spline-")
    assert stat.S_IMODE(fresh_cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
    made = library.stat().st_mtime_ns

    native.load_library.cache_clear()
    assert native.load_library("kan_spline") is not None
    assert [path.stat().st_mtime_ns for path in fresh_cache.iterdir()] == [made]


@NEEDS_LOOPS
@pytest.mark.parametrize("kept", [0, 100, 8192, 0.6, 1.0], ids=str)
def test_a_damaged_library_is_compiled_again(fresh_cache, kept, caplog):
    """Loaded as it is, it ends the process by SIGBUS, or the loops stay slow for ever."""
    assert native.load_library("kan_spline") is not None
    (library,) = fresh_cache.iterdir()
    whole = library.read_bytes()
    library.unlink()  # this process goes on with the old one
    changed = bytearray(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    if kept == 1.0:
        changed[len(changed) // 2] ^= 1
    library.write_bytes(changed)
    native.load_library.cache_clear()
    assert native.load_library("kan_spline") is not None
    assert "does not fit its checksum" in caplog.text
    (again,) = fresh_cache.iterdir()
    assert again.read_bytes() == whole


@NEEDS_LOOPS
def test_several_may_compile_at_once(fresh_cache):
    source = Path(native.__file__).with_name("kan_spline.cpp")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(native._compiled, [source] * 3))
    assert [found[0]] * 3 == found
    assert list(fresh_cache.iterdir()) == [found[0]]


def test_can_be_switched_off_without_a_word(fresh_cache, monkeypatch, caplog):
    expected = attention_results()
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, "0")
    native.load_library.cache_clear()
    with caplog.at_level(logging.INFO):
        found = attention_results()
    assert native.load_library("ms_deform_attn") is None
    assert select_backend(torch.device("cpu")) == "bag"
    assert not caplog.records
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_without_a_compiler_says_so_once_and_goes_on(fresh_cache, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(fresh_cache))
    monkeypatch.delenv("CXX", raising=False)
    x, grid = torch.randn(5, 2), uniform_knots(5, 3, (-1.0, 1.0)).repeat(2, 1)
    weight, scaler = torch.randn(3, 2, 8), torch.randn(3, 2)
    with caplog.at_level(logging.WARNING):
        found = kan_spline(x, grid, weight, scaler, uniform=True)
        kan_spline(x, grid, weight, scaler, uniform=True)
    torch.testing.assert_close(found, plain_spline(x, grid, weight, scaler, 3, True))
    (record,) = caplog.records
    assert "kan_spline" in record.getMessage()
    assert "No C++ compiler was found" in record.getMessage()
    assert "Install a C++ compiler" in record.getMessage()


def test_a_compiler_that_fails_is_quoted(fresh_cache, tmp_path, monkeypatch, caplog):
    compiler = tmp_path / "broken"
    compiler.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 1 && exit 0\necho 'no omp here' >&2\nexit 1\n"
    )
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.WARNING):
        assert native.load_library("kan_spline") is None
    assert "no omp here" in caplog.text
    assert list(fresh_cache.iterdir()) == []  # no unfinished file is left


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_refuses_a_cache_that_others_can_write_to(fresh_cache, caplog):
    fresh_cache.mkdir()
    fresh_cache.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert native.load_library("kan_spline") is None
    assert "can be written by others" in caplog.text
    assert "WBCNETS_CACHE" in caplog.text


@NEEDS_LOOPS
def test_several_threads_give_the_same_bits():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = attention_results()
        torch.set_num_threads(3)
        found = attention_results()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected))


@NEEDS_LOOPS
def test_the_operator_keeps_pytorchs_rules():
    value, locations, weights = attention_inputs()
    torch.library.opcheck(
        torch.ops.wbcnets.ms_deform_attn.default, (value, [4, 6, 2, 3], locations, weights)
    )


@pytest.mark.parametrize("switch", ["1", "0"])
def test_compilers_take_what_there_is(fresh_cache, monkeypatch, switch):
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, switch)
    native.load_library.cache_clear()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *x: ms_deform_attn(x[0], SHAPES, *x[1:]), fullgraph=True, backend="aot_eager"
    )
    tensors = attention_inputs()
    out = compiled(*tensors)
    found = torch.autograd.grad(out.square().sum(), tensors)
    for ours, theirs in zip([out, *found], attention_results()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_asking_for_loops_that_are_not_there_says_what_to_do(fresh_cache, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, "0")
    native.load_library.cache_clear()
    value, locations, weights = attention_inputs()
    with pytest.raises(RuntimeError, match="choose backend='bag'"):
        ms_deform_attn(value, SHAPES, locations, weights, backend="fused")
