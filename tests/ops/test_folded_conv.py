import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wbcnets.ops.folded_conv import FoldedConv2d, fold_batch_norms


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


def shaken(model):
    """Gives the norms of a model statistics and weights of their own, and float64."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.double().eval()


def fold(model, shape=(2, 3, 64, 64)):
    """Returns the number of folded norms and of the others; the answer must stay the same."""
    torch.manual_seed(2)
    images = torch.randn(shape, dtype=torch.float64)
    before = copy.deepcopy(model)(images)
    count = fold_batch_norms(model, images[:1])
    torch.testing.assert_close(model(images), before, rtol=1e-6, atol=1e-9)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return count, len(norms)


@pytest.mark.parametrize(
    ("name", "folded", "left"),
    [
        ("resnet18", 20, 0),
        ("mobilenetv3_small_050", 34, 0),  # norms with activations
        ("regnetx_002", 44, 0),  # groups
        # The first norm of its three layers, a transition's and the last one read joined maps
        ("densenet121", 4, 5),
    ],
)
def test_timm_models_answer_the_same(name, folded, left):
    options = {"growth_rate": 4, "block_config": (1, 2)} if name == "densenet121" else {}
    model = shaken(timm.create_model(name, num_classes=5, **options))
    assert fold(model) == (folded, left)


def small(*modules):
    torch.manual_seed(0)
    return shaken(nn.Sequential(*modules))


def conv(channels=4, **options):
    return nn.Conv2d(3 if channels == 4 else 4, channels, 3, padding=1, **options)


FOLDABLE = {
    "bias": [conv(), nn.BatchNorm2d(4)],
    "no_affine": [conv(bias=False), nn.BatchNorm2d(4, affine=False)],
    "reflection": [conv(padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU()],
    "channels_last": [conv().to(memory_format=torch.channels_last), nn.BatchNorm2d(4)],
}


@pytest.mark.parametrize("case", FOLDABLE)
def test_norms_behind_convolutions_are_folded(case):
    model = small(*copy.deepcopy(FOLDABLE[case]))
    layout = model[0].weight.stride()
    assert fold(model) == (1, 0)
    assert model[0].weight.stride() == layout
    assert not any(parameter.requires_grad for parameter in model[0].parameters())


class Repeated(nn.Module):
    """A convolution, and perhaps a norm, that run twice."""

    def __init__(self, norms):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms))

    def forward(self, x):
        x = self.norms[0](self.conv(x))
        return self.norms[-1](self.conv(x))


class Shared(nn.Module):
    """A norm whose input is read elsewhere, too: added to, or returned."""

    def __init__(self, returned):
        super().__init__()
        self.conv, self.norm, self.returned = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), returned

    def forward(self, x):
        maps = self.conv(x)
        return (self.norm(maps), maps) if self.returned else self.norm(maps) + maps


NOT_FOLDABLE = {
    "activation_first": lambda: small(conv(), nn.ReLU(), nn.BatchNorm2d(4)),
    "in_place_activation_first": lambda: small(conv(), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    "no_convolution_before": lambda: small(nn.BatchNorm2d(3), conv()),
    "statistics_of_the_batch": lambda: small(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
    "convolution_twice": lambda: shaken(Repeated(2)),
    "norm_twice": lambda: shaken(Repeated(1)),
    "output_added": lambda: shaken(Shared(returned=False)),
    "output_returned": lambda: shaken(Shared(returned=True)),
}


@pytest.mark.parametrize("case", NOT_FOLDABLE)
def test_norms_that_cannot_be_folded_stay(case):
    model = NOT_FOLDABLE[case]()
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert fold(model) == (0, norms)


def test_norms_in_training_mode_stay():
    model = small(conv(), nn.BatchNorm2d(4))
    model[1].train()
    assert fold_batch_norms(model, torch.randn(2, 3, 8, 8, dtype=torch.float64)) == 0
    with pytest.raises(ValueError, match=r"call model\.eval"):
        fold_batch_norms(model.train(), None)
