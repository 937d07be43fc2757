import pytest
import torch
from torch import nn

from wbcnets.ops.inplace import (
    InplaceBatchNorm2d,
    InplaceHardswish,
    add_,
    may_overwrite,
    multiply_,
)


def random_norm(kind=InplaceBatchNorm2d):
    torch.manual_seed(0)
    norm = kind(4)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    return norm


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_batch_norm_is_pytorchs(training, gradients):
    ours, theirs = random_norm().train(training), random_norm(nn.BatchNorm2d).train(training)
    x = torch.randn(2, 4, 3, 5)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(ours(x.clone()), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_inputs_are_overwritten_without_gradients_only():
    norm, activation = random_norm().eval(), InplaceHardswish()
    functions = (
        norm,
        activation,
        lambda x: multiply_(x, torch.full((4, 1, 1), 2.0)),
        lambda x: add_(x, torch.ones(2, 4, 3, 5, dtype=torch.bfloat16)),
    )
    for function in functions:
        x = torch.randn(2, 4, 3, 5)
        before = x.clone()
        expected = function(x)
        assert torch.equal(x, before)
        with torch.no_grad():
            out = function(x)
        assert out is x
        torch.testing.assert_close(out, expected)


def test_other_types_and_training_keep_the_input():
    x = torch.ones(2, 4, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        assert multiply_(x, torch.ones(1)).data_ptr() != x.data_ptr()
        half = torch.ones(3, dtype=torch.bfloat16)
        assert add_(half, torch.full((3,), 1e-3)).dtype == torch.float32
        kept = torch.randn(2, 4, 3, 5)
        before = kept.clone()
        random_norm().train()(kept)
    assert torch.equal(kept, before)


def test_compiled_graphs_overwrite_nothing():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x * may_overwrite(), fullgraph=True, backend="eager")
    with torch.no_grad():
        assert may_overwrite()
        assert compiled(torch.ones(2)).sum() == 0
