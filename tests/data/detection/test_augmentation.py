import subprocess
import sys

import numpy as np
import pytest

from wbcnets.data.detection.augmentation import PRESETS, BoxAugmentation, create_augmentation
from wbcnets.errors import ConfigError

BOXES = np.array([[10, 12, 30, 40], [0, 0, 8, 8], [50, 20, 64, 48]], np.float32)


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"none"}))
def test_presets_change_colors_and_leave_boxes(preset):
    augmentation = create_augmentation(preset)
    changed = 0
    for seed in range(50):
        result, boxes, kept = augmentation(image(), BOXES, seed)
        assert result.shape == (48, 64, 3)
        assert result.dtype == np.uint8
        assert np.allclose(boxes, BOXES, atol=1e-4)
        assert kept.tolist() == [0, 1, 2]
        changed += not np.array_equal(result, image())
    assert changed >= 35  # at most 16% of the draws skip every transform


def test_the_seed_decides_everything():
    augmentation = create_augmentation("microscope")
    first = [augmentation(image(), BOXES, seed)[0] for seed in range(6)]
    again = [create_augmentation("microscope")(image(), BOXES, seed)[0] for seed in range(6)]
    for one, other in zip(first, again):
        assert np.array_equal(one, other)
    assert len({one.tobytes() for one in first}) > 3


def test_transforms_decide_independently():
    # Two flips with probability 0.5 each: each of the four outcomes in a quarter of the cases
    flips = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
    augmentation = BoxAugmentation(flips)
    original = image()
    outcomes = [original, original[:, ::-1], original[::-1], original[::-1, ::-1]]
    counts = [0, 0, 0, 0]
    for seed in range(400):
        result = augmentation(original, BOXES, seed)[0]
        counts[next(i for i, o in enumerate(outcomes) if np.array_equal(result, o))] += 1
    assert min(counts) > 70, counts
    assert max(counts) < 130, counts


def test_the_seed_before_leaves_no_trace():
    augmentation = create_augmentation("microscope")
    augmentation(image(1), BOXES, 5)
    after = augmentation(image(), BOXES, 3)[0]
    assert np.array_equal(after, create_augmentation("microscope")(image(), BOXES, 3)[0])


def test_geometry_moves_boxes_with_their_pixels():
    canvas = np.zeros((48, 64, 3), np.uint8)
    canvas[12:40, 10:30] = 255
    flip = BoxAugmentation([{"name": "HorizontalFlip", "p": 1.0}])
    flipped, boxes, kept = flip(canvas, BOXES[:1], 0)
    assert np.allclose(boxes, [[34, 12, 54, 40]], atol=1e-3)
    assert (flipped[12:40, 34:54] == 255).all()
    assert kept.tolist() == [0]


def test_boxes_that_a_crop_leaves_out_are_reported_by_index():
    crop = BoxAugmentation(
        [{"name": "Crop", "x_min": 40, "y_min": 0, "x_max": 64, "y_max": 48, "p": 1.0}]
    )
    cropped, boxes, kept = crop(image(), BOXES, 0)
    assert cropped.shape == (48, 24, 3)
    assert kept.tolist() == [2]
    assert np.allclose(boxes, [[10, 20, 24, 48]], atol=1e-3)


def test_images_without_boxes():
    result, boxes, kept = create_augmentation("stain")(image(), np.zeros((0, 4), np.float32), 1)
    assert result.shape == (48, 64, 3)
    assert boxes.shape == (0, 4)
    assert kept.shape == (0,)


def test_none_and_further_transforms():
    assert create_augmentation("none") is None
    augmentation = create_augmentation("none", [{"name": "VerticalFlip", "p": 1.0}])
    assert "VerticalFlip" in repr(augmentation)
    assert len(create_augmentation("stain", [{"name": "Blur"}]).pipeline.transforms) == 3


def test_mistakes_in_the_config_are_named():
    with pytest.raises(ConfigError, match=r"preset 'strong' is unknown; use one of \['microscope'"):
        create_augmentation("strong")
    with pytest.raises(ConfigError, match="no transform 'Blurr'"):
        create_augmentation("none", [{"name": "Blurr"}])
    with pytest.raises(ConfigError, match="no transform None"):
        create_augmentation("none", [{"p": 1.0}])
    with pytest.raises(ConfigError, match="no transform 'Compose'"):
        create_augmentation("none", [{"name": "Compose"}])
    with pytest.raises(ConfigError, match="Blur has no option blur; it takes blur_limit"):
        create_augmentation("none", [{"name": "Blur", "blur": 3}])
    with pytest.raises(ConfigError, match="albumentations refused"):
        create_augmentation("none", [{"name": "Blur", "blur_limit": "much"}])


def test_import_asks_no_index_for_updates():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('reached for the network')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "import wbcnets.data.detection.augmentation\n"
    )
    environment = {"PATH": "", "PYTHONPATH": ".", "HOME": "."}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
