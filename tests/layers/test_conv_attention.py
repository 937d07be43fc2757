import math
from typing import Any

import pytest
import torch
from torch import nn

from wbcnets.errors import ConfigError
from wbcnets.layers.conv_attention import ConvAttention, ConvProjection

GRID = (5, 6)


def randomize(module: nn.Module) -> None:
    torch.manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point():
            nn.init.uniform_(tensor, -0.7, 0.7)


def random_attention(**options: Any) -> ConvAttention:
    attention = ConvAttention(8, 2, dtype=torch.float64, **options).eval()
    randomize(attention)
    return attention


def random_tokens(prefix: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, prefix + GRID[0] * GRID[1], 8, dtype=torch.float64)


def peer_of(attention: ConvAttention) -> nn.Module:
    """Returns the same attention in transformers' CvT."""
    transformers = pytest.importorskip("transformers.models.cvt.modeling_cvt")
    peer = transformers.CvtAttention(
        num_heads=attention.num_heads,
        embed_dim=8,
        kernel_size=3,
        padding_q=1,
        padding_kv=1,
        stride_q=1,
        stride_kv=attention.kv_stride,
        qkv_projection_method="dw_bn",
        qkv_bias=True,
        attention_drop_rate=0.0,
        drop_rate=0.0,
        with_cls_token=attention.num_prefix_tokens == 1,
    ).double()
    inner = peer.attention
    for name in ("query", "key", "value"):
        ours = getattr(attention, name)
        theirs = getattr(inner, f"convolution_projection_{name}").convolution_projection
        theirs.convolution.load_state_dict(ours.conv.state_dict())
        theirs.normalization.load_state_dict(ours.bn.state_dict())
        getattr(inner, f"projection_{name}").load_state_dict(ours.linear.state_dict())
    peer.output.dense.load_state_dict(attention.proj.state_dict())
    return peer.train(attention.training)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_matches_the_attention_of_transformers(prefix, stride, training):
    attention = random_attention(num_prefix_tokens=prefix, kv_stride=stride).train(training)
    peer = peer_of(attention)
    tokens = random_tokens(prefix)
    actual = attention(tokens, GRID)
    torch.testing.assert_close(actual, peer(tokens, *GRID), rtol=1e-10, atol=1e-10)


def test_class_attention_is_the_first_row_of_the_map():
    attention = random_attention(num_prefix_tokens=1)
    tokens = random_tokens(1)
    out, rows = attention.forward_with_class_attention(tokens, GRID)
    torch.testing.assert_close(out, attention(tokens, GRID), rtol=0, atol=0)

    maps = tokens[:, 1:].transpose(1, 2).unflatten(2, GRID)
    keys = attention.key(maps, tokens[:, :1]).detach()
    query = attention.query(maps, tokens[:, :1])[:, 0].detach()
    assert rows.shape == (2, 2, 1 + 3 * 3) == (2, 2, keys.shape[1])
    for sample in range(2):
        for head in range(2):
            scores = []
            for key in keys[sample]:
                width = range(4 * head, 4 * head + 4)
                product = sum(float(query[sample, c]) * float(key[c]) for c in width)
                scores.append(math.exp(product / math.sqrt(8)))
            expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
            torch.testing.assert_close(rows[sample, head], expected)


def test_scale_of_the_paper():
    # Equation 6 divides by the root of a head's width, 4, instead of the layer's, 8
    ours = random_attention(num_prefix_tokens=1)
    paper = random_attention(num_prefix_tokens=1, scale_by="head_dim")
    tokens = random_tokens(1)
    assert not torch.allclose(paper(tokens, GRID), ours(tokens, GRID))
    with torch.no_grad():
        ours.query.linear.weight.mul_(math.sqrt(2))
        ours.query.linear.bias.mul_(math.sqrt(2))
    torch.testing.assert_close(paper(tokens, GRID), ours(tokens, GRID))


@pytest.mark.parametrize("stride", [1, 2])
def test_tokens_that_are_no_map_are_seen_as_in_a_map_of_zeros(stride):
    projection = ConvProjection(8, stride=stride, dtype=torch.float64).eval()
    randomize(projection)
    prefix = torch.randn(1, 1, 8, dtype=torch.float64)
    kept = torch.randn(3, 8, dtype=torch.float64)
    places = [(0, 0), (2, 4), (4, 2)]
    zeros = torch.zeros(1, 8, 5, 6, dtype=torch.float64)
    for token, (row, column) in zip(kept, places):
        zeros[0, :, row, column] = token
    complete = projection(zeros, prefix)
    in_row = -(-6 // stride)
    keys = [1 + row // stride * in_row + column // stride for row, column in places]

    alone = projection(kept.reshape(3, 8, 1, 1), prefix, num_maps=3)

    torch.testing.assert_close(alone, complete[:, [0, *keys]])


def test_tokens_that_are_no_map_have_no_order():
    attention = random_attention(num_prefix_tokens=1)
    tokens = random_tokens(1)[:, :5]
    order = [0, 3, 1, 4, 2]
    torch.testing.assert_close(attention(tokens[:, order], None), attention(tokens, None)[:, order])


@pytest.mark.parametrize("grid", [(3, 2), None])
def test_gradients(grid):
    attention = ConvAttention(4, 2, num_prefix_tokens=1, dtype=torch.float64).eval()
    randomize(attention)
    tokens = torch.randn(1, 7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: attention.forward_with_class_attention(x, grid), tokens
    )
    assert torch.autograd.gradcheck(lambda x: attention(x, grid), tokens)


def test_every_parameter_gets_a_gradient():
    for grid in (GRID, None):
        attention = random_attention(num_prefix_tokens=1).train()
        attention(random_tokens(1), grid).square().sum().backward()
        for name, parameter in attention.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def test_works_on_the_meta_device_compiled_and_exported():
    meta = ConvAttention(8, 2, num_prefix_tokens=1, device="meta")
    assert meta(torch.empty(2, 31, 8, device="meta"), GRID).shape == (2, 31, 8)
    attention = random_attention(num_prefix_tokens=1)
    tokens = random_tokens(1)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for grid in (GRID, None):
        expected = attention(tokens, grid)
        torch.testing.assert_close(compiled(tokens, grid), expected)
        exported = torch.export.export(attention, (tokens, grid)).module()
        torch.testing.assert_close(exported(tokens, grid), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_finite_under_autocast(dtype):
    attention = ConvAttention(8, 2, num_prefix_tokens=1)
    tokens = random_tokens(1).float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        out, rows = attention.forward_with_class_attention(tokens, GRID)
    assert rows.dtype == torch.float32
    (out.float().sum() + rows.square().sum()).backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(tokens.grad).all()


def test_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="num_heads=3 does not divide dim=8"):
        ConvAttention(8, 3)
    with pytest.raises(ConfigError, match="'embed_dim', 'head_dim'"):
        ConvAttention(8, 2, scale_by="root")
    with pytest.raises(ConfigError, match="odd"):
        ConvProjection(8, kernel_size=2)
