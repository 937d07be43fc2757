import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wbcnets.ops.folded_conv import FoldedConv2d


def modules():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
    norm = FrozenBatchNorm2d(6)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    return conv, norm


def test_equals_convolution_norm_and_activation_forward_and_backward():
    conv, norm = (module.double() for module in modules())
    folded = FoldedConv2d(conv, norm, torch.relu)
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    expected, out = norm(conv(x)).relu(), folded(x)
    torch.testing.assert_close(out, expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, conv.weight))
    found = torch.autograd.grad(out.square().sum(), (x, folded.weight))
    torch.testing.assert_close(found, wanted)


def test_shares_the_parameters_under_their_names():
    conv, norm = modules()
    folded = FoldedConv2d(conv, norm)
    assert folded.weight is conv.weight
    assert list(folded.state_dict()) == ["weight", *(f"norm.{name}" for name in norm.state_dict())]
