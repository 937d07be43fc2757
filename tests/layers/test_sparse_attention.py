import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import sparse_attention as reference
from wbcnets.errors import ConfigError
from wbcnets.layers.sparse_attention import SparseAttention


def random_attention(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Rows of a softmax over N patches and the class token, without the class token's column."""
    *leading, patches = shape
    logits = torch.randn(*leading, patches + 1, dtype=dtype)
    return (2 * logits).softmax(dim=-1)[..., 1:]


def random_case(batch=2, maps=3, heads=2, patches=5, width=4):
    torch.manual_seed(batch * 1000 + maps * 100 + heads * 10 + patches)
    module = SparseAttention(maps, 4, dtype=torch.float64)
    torch.nn.init.uniform_(module.fc1.bias, 0.1, 0.5)
    tokens = torch.randn(batch, 1 + patches, width, dtype=torch.float64)
    return module, tokens, random_attention(batch, maps, heads, patches)


def test_matches_the_equations():
    module, tokens, attention = random_case()
    kept, indices = module(tokens, attention)
    combined = module.combine(attention)
    for sample in range(2):
        weights = reference.combine_maps(attention[sample], module.fc1, module.fc2)
        expected = torch.stack([torch.stack(row) for row in weights])
        torch.testing.assert_close(combined[sample], expected, rtol=1e-12, atol=1e-12)
        chosen = reference.choose(weights)
        assert indices[sample].tolist() == chosen
        rows = [tokens[sample, 0], *(tokens[sample, 1 + place] for place in chosen)]
        assert torch.equal(kept[sample], torch.stack(rows))


def test_gradients_are_those_of_the_mix_of_patches():
    module, tokens, attention = random_case()
    attention.requires_grad_()
    kept, _ = module(tokens, attention)
    upstream = torch.randn_like(kept)
    inputs = [attention, *module.parameters()]
    gradients = torch.autograd.grad(kept, inputs, upstream)

    objective = torch.zeros((), dtype=torch.float64)
    for sample in range(2):
        weights = reference.combine_maps(attention[sample], module.fc1, module.fc2)
        objective = objective + reference.straight_through_objective(
            weights, tokens[sample, 1:], upstream[sample, 1:]
        )
    expected = torch.autograd.grad(objective, inputs)
    for actual, wanted in zip(gradients, expected):
        assert wanted.abs().max() > 1e-6
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


def test_gradients_pass_gradcheck():
    module, tokens, attention = random_case(maps=2, patches=3, width=2)
    tokens.requires_grad_()
    attention.requires_grad_()
    # The choice is constant near the input, so the kept tokens' derivative is that of a copy
    assert torch.autograd.gradcheck(lambda x: module(x, attention.detach())[0], tokens)
    assert torch.autograd.gradcheck(module.combine, attention)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 4, 6, 12))),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_keeps_the_class_token_and_one_patch_per_head(sizes, dtype, scale):
    batch, maps, heads, patches = sizes
    torch.manual_seed(patches)
    module = SparseAttention(maps)
    tokens = (scale * torch.randn(batch, 1 + patches, 4)).to(dtype)
    attention = random_attention(batch, maps, heads, patches, dtype=torch.float32)
    kept, indices = module(tokens, attention)
    assert kept.shape == (batch, 1 + heads, 4)
    assert kept.dtype == dtype
    assert indices.shape == (batch, heads)
    assert torch.equal(kept[:, 0], tokens[:, 0])
    weights = module.combine(attention)
    for sample in range(batch):
        for head in range(heads):
            place = int(indices[sample, head])
            assert weights[sample, head, place] == weights[sample, head].max()
            assert torch.equal(kept[sample, 1 + head], tokens[sample, 1 + place])


def test_a_complete_map_would_tell_nothing():
    # The reason for the pooling in the module's header
    complete = torch.randn(3, 2, 7, 7, dtype=torch.float64).softmax(dim=-1)
    means = complete.mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, torch.full_like(means, 1 / 7))


def test_evenly_spread_attention_pools_to_about_one():
    module = SparseAttention(2)
    attention = torch.full((1, 2, 3, 196), 1 / 197)
    seen = []
    module.fc1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    module.combine(attention)
    torch.testing.assert_close(seen[0], torch.full((1, 2), 196 / 197))


def test_learns_which_map_finds_the_telling_patch():
    torch.manual_seed(0)
    module = SparseAttention(2)
    # The first map points at patch 0, the second at patch 1; their fractions differ, as in training
    attention = torch.tensor([[[[0.6, 0.1, 0.1]], [[0.1, 0.4, 0.1]]]])
    tokens = torch.randn(1, 4, 8)
    norm = torch.nn.LayerNorm(8, elementwise_affine=False)
    target = norm(tokens[:, 2])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    assert module(tokens, attention)[1].item() == 0
    for _ in range(60):
        kept, _ = module(tokens, attention)
        loss = (norm(kept[:, 1]) - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert module(tokens, attention)[1].item() == 1


def test_has_finite_gradients_for_tokens_of_any_scale_under_autocast():
    for dtype in (torch.float16, torch.bfloat16):
        for scale in (1e-8, 1.0, 1e8):
            module, _, attention = random_case()
            module = module.float()
            tokens = (scale * torch.randn(2, 6, 4)).requires_grad_()
            attention = attention.float().requires_grad_()
            with torch.autocast("cpu", dtype=dtype):
                kept, _ = module(tokens, attention)
            assert torch.isfinite(kept).all()
            kept.square().mean().backward()
            for tensor in (tokens, attention, *module.parameters()):
                assert torch.isfinite(tensor.grad).all()


def test_a_class_token_that_attends_to_itself_alone_gives_finite_gradients():
    module, tokens, attention = random_case()
    attention = torch.zeros_like(attention).requires_grad_()
    kept, indices = module(tokens, attention)
    kept.sum().backward()
    assert torch.isfinite(attention.grad).all()
    assert indices.unique().tolist() == [0]


def test_works_on_the_meta_device_compiled_and_exported():
    meta = SparseAttention(3, device="meta")
    kept, _ = meta(torch.empty(2, 6, 4, device="meta"), torch.empty(2, 3, 2, 5, device="meta"))
    assert kept.shape == (2, 3, 4)
    assert kept.is_meta

    module, tokens, attention = random_case()
    expected = module(tokens, attention)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (tokens, attention)).module()
    for twin in (compiled, exported):
        actual = twin(tokens, attention)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize(("maps", "hidden"), [(0, None), (2, 0), (-1, 4)])
def test_refuses_sizes_below_one(maps, hidden):
    with pytest.raises(ConfigError, match="at least 1"):
        SparseAttention(maps, hidden)
