import torch
from torch import nn
from torch.nn import functional as F

from wbcnets.layers import FaPN
from wbcnets.layers.necks.fapn import FeatureAlignmentModule, FeatureSelectionModule


def test_zero_offsets_equal_a_plain_convolution():
    torch.manual_seed(0)
    module = FeatureAlignmentModule(8)
    nn.init.zeros_(module.offset.weight)
    nn.init.zeros_(module.offset.bias)
    low, high = torch.randn(2, 8, 7, 9), torch.randn(2, 8, 7, 9)
    expected = F.conv2d(high, module.alignment.weight, module.alignment.bias, padding=1).relu()
    torch.testing.assert_close(module(low, high), expected)


def test_offsets_move_the_high_map():
    torch.manual_seed(0)
    module = FeatureAlignmentModule(8)
    nn.init.zeros_(module.offset.weight)
    with torch.no_grad():
        # Offsets come as (dy, dx) per tap: every tap looks one row further down.
        module.offset.bias.copy_(torch.tensor([1.0, 0.0] * 9))
    low, high = torch.randn(1, 8, 7, 9), torch.randn(1, 8, 7, 9)
    moved = torch.cat([high[:, :, 1:], torch.zeros(1, 8, 1, 9)], dim=2)
    expected = F.conv2d(moved, module.alignment.weight, module.alignment.bias, padding=1).relu()
    # The first row's upper taps see the map's own first row where the moved map has its border.
    torch.testing.assert_close(module(low, high)[:, :, 1:], expected[:, :, 1:])


def test_starts_as_the_unaligned_form():
    torch.manual_seed(0)
    neck = FaPN((4, 6), 8)
    maps = [torch.randn(2, 4, 7, 9), torch.randn(2, 6, 4, 5)]

    fine, coarse = neck(maps)

    low, high = neck.selections[0](maps[0]), neck.selections[1](maps[1])
    above = F.interpolate(high, (7, 9), mode="bilinear", align_corners=False)
    above = neck.alignments[0].alignment(above).relu()
    torch.testing.assert_close(fine, neck.outputs[0](low + above))
    torch.testing.assert_close(coarse, neck.outputs[1](high))


def test_selection_doubles_what_matters_most():
    module = FeatureSelectionModule(2, 2)
    with torch.no_grad():
        # Averages (1, 1): the importance is sigmoid(40) = 1 and sigmoid(-40) = 0.
        module.importance.weight.copy_(torch.diag(torch.tensor([40.0, -40.0]))[:, :, None, None])
    module.projection = nn.Identity()
    selected = module(torch.ones(1, 2, 3, 3))
    torch.testing.assert_close(selected[0, :, 0, 0], torch.tensor([2.0, 1.0]))


def test_alignment_gradients_match_finite_differences():
    torch.manual_seed(0)
    module = FeatureAlignmentModule(2, dtype=torch.float64)
    maps = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(module, maps, fast_mode=True)


def test_half_precision_keeps_its_dtype():
    torch.manual_seed(0)
    neck = FaPN((4, 6), 8, dtype=torch.bfloat16)
    maps = [torch.randn(1, 4, 7, 9).bfloat16(), torch.randn(1, 6, 4, 5).bfloat16()]
    outputs = neck(maps)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    reference = neck.float()([entry.float() for entry in maps])
    torch.testing.assert_close(outputs[0].float(), reference[0], rtol=0.1, atol=0.1)
