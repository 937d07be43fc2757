import pytest
import torch
from torch import nn

from wbcnets.errors import ConfigError
from wbcnets.layers import BiFPN
from wbcnets.layers.necks.bifpn import BiFPNLayer, WeightedFusion


def set_weights(fusion: WeightedFusion, values: list[float]) -> None:
    with torch.no_grad():
        fusion.weight.copy_(torch.tensor(values))


def test_equal_constant_maps_keep_their_value():
    fusion = WeightedFusion(3, 4)
    set_weights(fusion, [0.2, 1.0, 3.0])
    constant = torch.full((1, 4, 5, 5), 7.0)
    # 7 * 4.2 / (4.2 + 1e-4)
    torch.testing.assert_close(fusion.fuse([constant] * 3), constant * (4.2 / 4.2001))


def test_shares_are_proportional_and_negative_weights_count_nothing():
    fusion = WeightedFusion(3, 4)
    set_weights(fusion, [1.0, -5.0, 3.0])
    maps = [torch.full((1, 4, 2, 2), value) for value in (4.0, 1000.0, 8.0)]
    # (1 * 4 + 0 * 1000 + 3 * 8) / 4.0001 = 6.999825
    expected = torch.full((1, 4, 2, 2), 6.999825)
    torch.testing.assert_close(fusion.fuse(maps), expected)


def test_layer_follows_the_paths_of_figure_2d():
    layer = BiFPNLayer(3, 4)
    fusions = [*layer.top_down, *layer.bottom_up]
    for fusion in fusions:
        fusion.convolution, fusion.activation = nn.Identity(), nn.Identity()
        fusion.epsilon = 0.0
    # Constant maps, so that no resize changes them: 1 at the finest, 2, 6 at the top.
    maps = [
        torch.full((1, 4, 8 >> level, 8 >> level), value)
        for level, value in enumerate((1.0, 2.0, 6.0))
    ]

    outputs = layer(maps)

    # Down: middle (2 + 6) / 2 = 4, finest (1 + 4) / 2 = 2.5.
    # Up: middle (2 + 4 + 2.5) / 3 = 2.8333, top (6 + 2.8333) / 2 = 4.41667.
    for output, entry, value in zip(outputs, maps, (2.5, 8.5 / 3, (6 + 8.5 / 3) / 2)):
        torch.testing.assert_close(output, torch.full_like(entry, value))


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_number_of_fusions_for_any_number_of_levels(num_levels):
    layer = BiFPNLayer(num_levels, 4)
    inputs = [f.weight.numel() for f in layer.bottom_up]
    assert len(layer.top_down) == num_levels - 1
    assert inputs == ([3] * (num_levels - 2) + [2] if num_levels > 1 else [])
    maps = [torch.randn(1, 4, 9, 9)] * num_levels
    assert [tuple(m.shape) for m in layer(maps)] == [(1, 4, 9, 9)] * num_levels


def test_separable_convolutions_are_smaller():
    def size(separable: bool) -> int:
        neck = BiFPN((8, 8, 8), 32, num_layers=2, separable=separable)
        return sum(p.numel() for p in neck.parameters())

    # Each of 2 * 4 fusions: 32 * 9 + 32 * 32 against 32 * 32 * 9 weights.
    assert size(False) - size(True) == 8 * (32 * 32 * 9 - 32 * 9 - 32 * 32)


def test_full_convolutions_run():
    outputs = BiFPN((8, 16), 32, num_layers=1, separable=False)(
        [torch.randn(1, 8, 7, 9), torch.randn(1, 16, 4, 5)]
    )
    assert [tuple(output.shape) for output in outputs] == [(1, 32, 7, 9), (1, 32, 4, 5)]


def test_needs_a_layer():
    with pytest.raises(ConfigError, match="num_layers must be at least 1, got 0"):
        BiFPN((8,), 8, num_layers=0)
