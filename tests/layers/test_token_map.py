import torch
from torch import nn

from wbcnets.layers.token_map import map_to_tokens, tokens_to_map


def test_rows_are_the_maps_rows():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    tokens = map_to_tokens(x)
    assert tokens.shape == (1, 12, 2)
    assert torch.equal(tokens[0, 5], x[0, :, 1, 1])
    assert torch.equal(tokens_to_map(tokens, (3, 4)), x)


def test_batch_norm_gets_the_same_gradient_from_one_image_as_from_two_equal_ones():
    gradients = []
    for copies in (1, 2):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(8).eval()
        tokens = torch.randn(1, 6, 8).expand(copies, -1, -1).clone()
        weight = torch.randn(1, 6, 8)
        out = map_to_tokens(norm(tokens_to_map(tokens, (2, 3))))
        (out * weight).sum().backward()
        gradients.append(norm.weight.grad / copies)
    torch.testing.assert_close(gradients[0], gradients[1])
