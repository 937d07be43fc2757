import numpy as np
import pytest

from tests.data.cells.cell_images import draw_cell
from wbcnets.data.cells.augmentation import PRESETS, CellAugmentation, resize_square
from wbcnets.errors import ConfigError, DataError

RANDOM = [name for name in PRESETS if name not in ("none", "sckansformer_eval")]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(40, 40), (50, 37), (8, 9), (200, 230)])
def test_every_preset_gives_the_size(preset, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    result = CellAugmentation(preset, 32)(image, 7)
    assert result.shape == (32, 32, 3)
    assert result.dtype == np.uint8
    assert (image == before).all()


@pytest.mark.parametrize("preset", RANDOM)
def test_the_seed_decides_everything(preset):
    image = draw_cell(1, side=64)
    first, second = (CellAugmentation(preset, 48) for _ in range(2))
    results = [first(image, seed) for seed in range(12)]
    # In another order and by another object
    again = [second(image, seed) for seed in reversed(range(12))][::-1]
    assert all((a == b).all() for a, b in zip(results, again))
    assert len({result.tobytes() for result in results}) > 3


@pytest.mark.parametrize("preset", ["none", "sckansformer_eval"])
def test_evaluation_does_not_depend_on_the_seed(preset):
    augmentation = CellAugmentation(preset, 48)
    image = draw_cell(1, side=64)
    assert (augmentation(image, 1) == augmentation(image, 2)).all()


def test_none_keeps_an_image_of_the_right_size():
    image = draw_cell(2)
    assert (CellAugmentation("none", 40)(image, 0) == image).all()


def test_flips_give_all_eight_positions_and_change_no_pixel():
    image = draw_cell(3)
    turns = [np.rot90(image, k) for k in range(4)]
    expected = {np.ascontiguousarray(t).tobytes() for t in turns}
    expected |= {np.ascontiguousarray(t[:, ::-1]).tobytes() for t in turns}
    augmentation = CellAugmentation("flips", 40)
    assert {augmentation(image, seed).tobytes() for seed in range(100)} == expected


def test_evaluation_of_sckansformer_is_the_center_of_the_larger_image():
    image = draw_cell(4, side=256)
    result = CellAugmentation("sckansformer_eval", 224)(image, 0)
    assert (result == image[16:240, 16:240]).all()
    crops = [CellAugmentation("sckansformer", 224)(image, seed) for seed in range(6)]
    assert len({crop.tobytes() for crop in crops}) == 6


@pytest.mark.parametrize("preset", ["stain", "resnext_cc", "conv_sparse_vit"])
def test_rotations_leave_no_black_corners(preset):
    image = np.full((64, 64, 3), 200, dtype=np.uint8)
    augmentation = CellAugmentation(preset, 64)
    assert min(augmentation(image, seed).max(axis=2).min() for seed in range(40)) > 120


def test_steps_are_independent_of_each_other():
    """Albumentations starts all transforms from one number if it is only given a seed."""
    steps = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
    augmentation = CellAugmentation("none", 40, steps)
    image = draw_cell(5)
    assert len({augmentation(image, seed).tobytes() for seed in range(40)}) == 4


def test_the_active_list_can_be_printed():
    text = repr(CellAugmentation("stain", 64, [{"name": "GaussNoise", "p": 0.25}]))
    assert text.startswith("stain: resize to 64; D4(p=1.0); Rotate(p=0.5")
    assert "HueSaturationValue" in text
    assert "ElasticTransform" in text
    assert text.index("GaussNoise(p=0.25") > text.index("ElasticTransform")
    assert "random crop of 56" in repr(CellAugmentation("sckansformer", 56))


def test_unknown_presets_transforms_and_options():
    with pytest.raises(ConfigError, match="use one of none, flips, stain"):
        CellAugmentation("stains", 32)
    with pytest.raises(ConfigError, match="image_size 0"):
        CellAugmentation("none", 0)
    with pytest.raises(ConfigError, match="no transform 'Flop'"):
        CellAugmentation("none", 32, [{"name": "Flop"}])
    with pytest.raises(ConfigError, match="no option probability"):
        CellAugmentation("none", 32, [{"name": "GaussNoise", "probability": 1}])
    with pytest.raises(DataError, match="expected uint8"):
        CellAugmentation("none", 32)(np.zeros((8, 8), dtype=np.uint8), 0)


def test_resizing_keeps_flat_images_flat_and_the_mean():
    assert (resize_square(np.full((30, 50, 3), 77, dtype=np.uint8), 64) == 77).all()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blocks = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_square(image, 16) - blocks).max() <= 0.5 + 1e-6
