import pytest
import torch

from wbcnets.ops import native
from wbcnets.ops.dropout import dropout_add_, relu_dropout_

NEEDS_LOOPS = pytest.mark.skipif(
    native.load_library("dropout") is None, reason="no C++ compiler with OpenMP"
)
P = 0.3


def fresh(x):
    """A tensor that may be overwritten, with a path back to x."""
    return x * 1


def test_without_training_nothing_is_dropped():
    x, residual = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.equal(relu_dropout_(x.clone(), P, training=False), x.relu())
    assert torch.equal(relu_dropout_(x.clone(), 0.0, training=True), x.relu())
    assert torch.equal(dropout_add_(x.clone(), residual, P, training=False), residual + x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fraction_is_dropped_and_the_rest_scaled(dtype):
    torch.manual_seed(0)
    x = torch.rand(500, 400, dtype=dtype) + 0.5
    for out in (
        relu_dropout_(x.clone(), P, training=True),
        dropout_add_(x.clone(), torch.zeros_like(x), P, training=True),
    ):
        kept = out != 0
        fraction = kept.double().mean().item()
        deviation = (P * (1 - P) / x.numel()) ** 0.5
        assert abs(fraction - (1 - P)) < 5 * deviation
        torch.testing.assert_close(out[kept], (x / (1 - P))[kept])


def test_neighbors_rows_and_calls_are_independent():
    torch.manual_seed(0)
    ones = torch.ones(512, 512, dtype=torch.float64)
    first, second = (relu_dropout_(ones.clone(), 0.5, training=True) - 1 for _ in range(2))
    noise = 5 / first.numel() ** 0.5
    assert abs((first[:, 1:] * first[:, :-1]).mean()) < noise
    assert abs((first[1:] * first[:-1]).mean()) < noise
    assert abs((first * second).mean()) < noise
    assert (first.mean(dim=0).abs() < 6 / 512**0.5).all()


def test_negative_values_and_nan():
    x = torch.tensor([-1.0, float("nan"), 2.0]).repeat(100)
    out = relu_dropout_(x.clone(), P, training=True).view(100, 3)
    assert (out[:, 0] == 0).all()
    assert out[:, 1].isnan().any()
    assert out[:, 2].unique().tolist() == pytest.approx([0.0, 2 / 0.7])


@pytest.mark.parametrize("which", ["relu", "add"])
def test_gradients_are_those_of_the_kept_values(which):
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    mixer = torch.randn(40, 30, dtype=torch.float64)
    torch.manual_seed(1)
    if which == "relu":
        out = relu_dropout_(fresh(x), P, training=True)
        kept = (out != 0).double() / (1 - P)
    else:
        out = dropout_add_(fresh(x), residual, P, training=True)
        kept = ((out - residual).abs() > 1e-12).double() / (1 - P)
        assert torch.equal(
            torch.autograd.grad((out * mixer).sum(), residual, retain_graph=True)[0], mixer
        )
    (grad,) = torch.autograd.grad((out * mixer).sum(), x)
    torch.testing.assert_close(grad, kept * mixer)


def test_the_generator_repeats_it():
    x = torch.randn(30, 30)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = relu_dropout_(x.clone(), P, training=True)
    assert not torch.equal(relu_dropout_(x.clone(), P, training=True), first)
    torch.set_rng_state(state)
    assert torch.equal(relu_dropout_(x.clone(), P, training=True), first)


@NEEDS_LOOPS
def test_threads_do_not_matter():
    x = torch.randn(300, 700)  # several blocks
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            results.append(dropout_add_(x.clone(), x, P, training=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@NEEDS_LOOPS
def test_keeps_no_mask():
    x = torch.randn(64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        dropout_add_(fresh(x), torch.randn(64, 64), P, training=True)
        assert sum(kept) <= 1  # the factor of fresh
        out = relu_dropout_(fresh(x), P, training=True)
    assert kept[-1] == out.numel()


def test_half_types_and_views_take_pytorchs_own():
    torch.manual_seed(0)
    out = relu_dropout_(torch.ones(50, 50, dtype=torch.bfloat16), 0.5, training=True)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    view = torch.ones(50, 50).t()[::2]
    assert set(dropout_add_(view, torch.zeros_like(view), 0.5, True).unique().tolist()) == {
        0.0,
        2.0,
    }


def test_leaves_that_train_are_not_overwritten():
    x = torch.ones(20, 20, requires_grad=True)
    out = dropout_add_(x, torch.zeros(20, 20), 0.5, training=True)
    assert torch.equal(x, torch.ones(20, 20))
    out.sum().backward()
    assert torch.equal(x.grad, out)


def test_compiles():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda r, x: dropout_add_(relu_dropout_(x * 1, 0.5, True), r, 0.5, True),
        fullgraph=True,
        backend="aot_eager",
    )
    out = compiled(torch.zeros(64, 64), torch.ones(64, 64))
    assert set(out.unique().tolist()) == {0.0, 4.0}
