import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcnets.errors import ConfigError
from wbcnets.layers.conv_embed import ConvEmbed


@pytest.mark.parametrize(
    ("chans", "dim", "kernel", "stride", "padding"),
    [(3, 64, 7, 4, 2), (64, 192, 3, 2, 1), (5, 8, 2, 2, 0)],
)
def test_matches_the_embedding_of_transformers(chans, dim, kernel, stride, padding):
    transformers = pytest.importorskip("transformers.models.cvt.modeling_cvt")
    torch.manual_seed(0)
    embed = ConvEmbed(chans, dim, kernel, stride, padding, dtype=torch.float64)
    torch.nn.init.normal_(embed.norm.weight)
    torch.nn.init.normal_(embed.norm.bias)
    peer = transformers.CvtConvEmbeddings(kernel, chans, dim, stride, padding).double()
    peer.projection.load_state_dict(embed.proj.state_dict())
    peer.normalization.load_state_dict(embed.norm.state_dict())
    image = torch.randn(2, chans, 21, 30, dtype=torch.float64)
    torch.testing.assert_close(embed(image), peer(image), rtol=1e-12, atol=1e-12)


def test_paper_sizes():
    # Table 5: 224 -> 56 -> 28 -> 14
    assert ConvEmbed(3, 64, 7, 4, 2).output_size(224, 224) == (56, 56)
    assert ConvEmbed(64, 192, 3, 2, 1).output_size(56, 56) == (28, 28)
    assert ConvEmbed(192, 384, 3, 2, 1).output_size(28, 28) == (14, 14)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(7, 40),
    width=st.integers(7, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
)
def test_output_size_is_the_size_of_the_output(height, width, kernel, stride, padding):
    embed = ConvEmbed(1, 2, kernel, stride, padding, device="meta")
    output = embed(torch.empty(1, 1, height, width, device="meta"))
    assert tuple(output.shape[2:]) == embed.output_size(height, width)


def test_tokens_are_normalized():
    tokens = ConvEmbed(3, 32)(50 + 100 * torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(tokens.mean(dim=1), torch.zeros(2, 8, 8), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        tokens.std(dim=1, unbiased=False), torch.ones(2, 8, 8), rtol=0, atol=1e-3
    )


def test_gradients():
    embed = ConvEmbed(2, 3, 3, 2, 1, dtype=torch.float64)
    image = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(embed, image)


@pytest.mark.parametrize("arguments", [(0, 8, 3, 2, 1), (3, 8, 0, 2, 1), (3, 8, 3, 2, -1)])
def test_refuses_sizes_out_of_range(arguments):
    with pytest.raises(ConfigError, match="at least"):
        ConvEmbed(*arguments)
