import timm.models.vision_transformer as peer
import torch
from timm.layers import Mlp

from wbcnets.layers.self_attention import SelfAttention
from wbcnets.layers.transformer_block import Block


def twins() -> tuple[Block, torch.nn.Module]:
    torch.manual_seed(0)
    block = Block(8, SelfAttention(8, 2), Mlp(8, 16)).double()
    other = peer.Block(8, 2, mlp_ratio=2, qkv_bias=True).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(block.state_dict())
    return block, other


def test_matches_the_block_of_timm():
    block, other = twins()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(block(tokens), other(tokens), rtol=1e-10, atol=1e-10)


def test_class_attention_is_the_first_row_of_the_map():
    block, other = twins()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    out, row = block.forward_with_class_attention(tokens)
    assert torch.equal(out, block(tokens))
    query, key, _ = other.attn.qkv(other.norm1(tokens)).reshape(2, 5, 3, 2, 4).unbind(2)
    scores = torch.einsum("bqhc,bkhc->bhqk", query, key) / 2
    torch.testing.assert_close(row, scores.softmax(dim=-1)[:, :, 0])


def test_drops_paths_of_whole_samples():
    block = Block(8, SelfAttention(8, 2), Mlp(8, 16), drop_path=0.5)
    tokens = torch.randn(1, 5, 8).expand(64, -1, -1)
    unchanged = sum(torch.equal(out, token) for out, token in zip(block(tokens), tokens))
    assert 0 < unchanged < 64
    assert not any(torch.equal(out, token) for out, token in zip(block.eval()(tokens), tokens))
