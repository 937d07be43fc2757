import pytest
import torch

from wbcnets.errors import ConfigError
from wbcnets.layers import ChannelAttention


def test_matches_a_hand_worked_example():
    attention = ChannelAttention(channels=2, reduction=2)
    with torch.no_grad():
        attention.squeeze.weight.copy_(torch.tensor([1.0, 4.0]).view(1, 2, 1, 1))
        attention.expand.weight.copy_(torch.tensor([0.5, -0.5]).view(2, 1, 1, 1))
    features = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, -4.0]]]])

    weights = attention(features)

    # averages (3, -1): relu(3 - 4) = 0; maxima (6, 0): relu(6 + 0) = 6;
    # logits (0 + 3, 0 - 3): sigmoid(3) = 0.9525741 and sigmoid(-3) = 0.0474259.
    expected = torch.tensor([0.9525741, 0.0474259]).view(1, 2, 1, 1)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(16, 4, 4), (6, 4, 1), (3, 4, 1)])
def test_bottleneck_is_never_empty(channels, reduction, hidden):
    attention = ChannelAttention(channels, reduction)
    assert attention.squeeze.out_channels == hidden
    assert attention(torch.randn(2, channels, 5, 3)).shape == (2, channels, 1, 1)


def test_one_bottleneck_without_bias_serves_both_poolings():
    attention = ChannelAttention(16, 4)
    assert sum(p.numel() for p in attention.parameters()) == 2 * 16 * 4
    # On a constant map the poolings agree, so the logit is twice the bottleneck's output
    constant = torch.randn(1, 16, 1, 1).expand(1, 16, 4, 4)
    once = attention.expand(torch.relu(attention.squeeze(constant[:, :, :1, :1])))
    torch.testing.assert_close(attention(constant), torch.sigmoid(2 * once))


@pytest.mark.parametrize("arguments", [(0, 4), (8, 0), (-1, 4)])
def test_refuses_sizes_below_one(arguments):
    with pytest.raises(ConfigError, match="at least 1"):
        ChannelAttention(*arguments)
