import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from wbcnets.errors import ConfigError
from wbcnets.layers import SelfAttention


def attention_map(layer, x):
    """Returns the whole (B, heads, N, N) map, from the definition."""
    batch, tokens, dim = x.shape
    query, key, _ = layer.qkv(x).reshape(batch, tokens, 3, layer.num_heads, -1).unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", query, key) / (dim // layer.num_heads) ** 0.5
    return scores.softmax(dim=-1)


def test_equals_timms_attention():
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3)
    theirs = vit.blocks[0].attn.eval()
    ours = SelfAttention(24, num_heads=3).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x))


def test_class_attention_is_the_first_row_of_the_map():
    layer = SelfAttention(24, num_heads=3).double()
    x = torch.randn(2, 6, 24, dtype=torch.float64)
    tokens, row = layer.forward_with_class_attention(x)
    torch.testing.assert_close(tokens, layer(x))
    torch.testing.assert_close(row, attention_map(layer, x)[:, :, 0])


def test_class_attention_is_float32_under_autocast():
    layer = SelfAttention(24, num_heads=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, row = layer.forward_with_class_attention(1e3 * torch.randn(2, 6, 24))
    assert row.dtype == torch.float32
    torch.testing.assert_close(row.sum(dim=-1), torch.ones(2, 3))


def test_gradients():
    layer = SelfAttention(4, num_heads=2).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer.forward_with_class_attention, (x,))


def test_dropout_of_attention_is_for_training_only():
    layer = SelfAttention(8, num_heads=2, attn_drop=0.5)
    x = torch.randn(1, 16, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(("dim", "num_heads"), [(10, 3), (8, 0), (0, 1)])
def test_heads_that_cannot_share_are_an_error(dim, num_heads):
    with pytest.raises(ConfigError, match=f"num_heads={num_heads} does not divide dim={dim}"):
        SelfAttention(dim, num_heads)
