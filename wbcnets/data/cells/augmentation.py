"""Augmentation of cell images with albumentations: presets, and lists of further transforms.

A preset first resizes the image to a square, deterministically, so that the result can be cached,
and then changes it at random. Cells have no upright position: flips and rotations by any angle are
always allowed, and reflection fills the corners that a rotation uncovers.

The presets of the papers follow their text; ``PRESETS`` tells where a choice is ours.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wbcnets.data.detection.augmentation import build_pipeline
from wbcnets.errors import ConfigError, DataError

RgbImage = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CellPreset:
    """A named pipeline.

    Args:
        about: Its origin and purpose.
        scale: The image is resized to ``scale * image_size`` first.
        crop: Position of the crop of ``image_size``: "random", "center", or "" if ``scale`` is 1.
        steps: Names and keywords of albumentations transforms.
    """

    about: str
    scale: float = 1.0
    crop: str = ""
    steps: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether the result depends on the seed."""
        return bool(self.steps) or self.crop == "random"


_ANY_ANGLE = {"name": "Rotate", "limit": 180, "border_mode": cv2.BORDER_REFLECT_101}
PRESETS: dict[str, CellPreset] = {
    "none": CellPreset("resize only: for evaluation, and for training without augmentation"),
    "flips": CellPreset(
        "flips and quarter turns, which change no pixel value", steps=({"name": "D4", "p": 1.0},)
    ),
    "stain": CellPreset(
        "the differences between laboratories: stain, light, focus, position and shape of cells",
        steps=(
            {"name": "D4", "p": 1.0},
            {**_ANY_ANGLE, "p": 0.5},
            {
                "name": "HueSaturationValue",
                "hue_shift_limit": 8,
                "sat_shift_limit": 25,
                "val_shift_limit": 15,
                "p": 0.5,
            },
            {
                "name": "RandomBrightnessContrast",
                "brightness_limit": 0.15,
                "contrast_limit": 0.2,
                "p": 0.5,
            },
            {"name": "GaussianBlur", "blur_limit": (3, 5), "p": 0.15},
            {
                "name": "ElasticTransform",
                "alpha": 40,
                "sigma": 6,
                "approximate": True,
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 0.15,
            },
        ),
    ),
    "laboratories": CellPreset(
        "other laboratories: crops from tight to wide, any angle, and the stain, light, camera and "
        "compression of others; a quarter of the images keep their crop, a fifth their colors",
        # A tight crop of a wide image is enlarged by less
        scale=1.4,
        steps=(
            {"name": "D4", "p": 1.0},
            {
                "name": "Affine",
                "scale": (0.85, 2.3),
                "keep_ratio": True,
                "rotate": (-180, 180),
                "translate_percent": (-0.05, 0.05),
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 0.75,
            },
            {
                "name": "ColorJitter",
                "brightness": (0.8, 1.2),
                "contrast": (0.75, 1.35),
                "saturation": (0.5, 1.5),
                "hue": (-0.06, 0.06),
                "p": 0.6,
            },
            {"name": "RandomToneCurve", "scale": 0.2, "per_channel": True, "p": 0.5},
            {"name": "RandomGamma", "gamma_limit": (75, 135), "p": 0.2},
            {"name": "GaussianBlur", "blur_limit": (3, 5), "p": 0.15},
            {"name": "Downscale", "scale_range": (0.5, 0.9), "p": 0.1},
            {"name": "Sharpen", "p": 0.1},
            {"name": "GaussNoise", "std_range": (0.01, 0.04), "p": 0.15},
            {"name": "ImageCompression", "quality_range": (40, 95), "p": 0.15},
        ),
    ),
    "sckansformer": CellPreset(
        "SCKansformer, section III-G: random crop of 224 and horizontal flip; the crop is taken "
        "from 256, the size that the paper names for validation",
        scale=256 / 224,
        crop="random",
        steps=({"name": "HorizontalFlip", "p": 0.5},),
    ),
    "sckansformer_eval": CellPreset(
        "SCKansformer, section III-G, validation: resize to 256, center crop of 224",
        scale=256 / 224,
        crop="center",
    ),
    "resnext_cc": CellPreset(
        "ResNeXt-CC, discussion: horizontal and vertical flips, random scaling, random rotation; "
        "the paper gives no ranges, ours are 0.8 to 1.2 and any angle",
        steps=(
            {"name": "HorizontalFlip", "p": 0.5},
            {"name": "VerticalFlip", "p": 0.5},
            {
                "name": "Affine",
                "scale": (0.8, 1.2),
                "rotate": (-180, 180),
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 1.0,
            },
        ),
    ),
    "conv_sparse_vit": CellPreset(
        "convolutional sparse ViT, table 4: the paper states the number of augmented images, not "
        "the transforms; flips and rotations by any angle are our choice",
        steps=({"name": "D4", "p": 1.0}, {**_ANY_ANGLE, "p": 0.5}),
    ),
}


def check_val_preset(preset: str, name: str) -> str:
    """Returns the preset of images to evaluate or to predict.

    Args:
        preset: The preset.
        name: Names it in the message, such as "data.val_augmentation".

    Raises:
        ConfigError: if it is unknown, or depends on random numbers.
    """
    usable = [known for known, entry in PRESETS.items() if not entry.is_random]
    if preset not in usable:
        raise ConfigError(
            f"{name}={preset!r} is random or unknown; for evaluation there are {', '.join(usable)}"
        )
    return preset


class CellAugmentation:
    """Turns an image of any size into a square one; the caller gives the seed.

    Args:
        preset: "none" (also for evaluation), "flips", "stain", "laboratories", "sckansformer",
            "sckansformer_eval", "resnext_cc" or "conv_sparse_vit", see ``PRESETS``.
        image_size: Side of the result in px.
        transforms: Further albumentations transforms, such as
            ``[{"name": "GaussNoise", "p": 0.2}]``.

    Raises:
        ConfigError: if the preset, the size, a transform or a keyword is unknown or out of range.
    """

    def __init__(
        self, preset: str, image_size: int, transforms: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        if preset not in PRESETS:
            raise ConfigError(
                f"augmentation preset {preset!r} is unknown; use one of {', '.join(PRESETS)}",
                setting="preset",
            )
        if image_size < 1:
            raise ConfigError(
                f"image_size {image_size} is out of range; it must be 1 or more",
                setting="image_size",
            )
        self.preset = preset
        self.image_size = image_size
        chosen = PRESETS[preset]
        self.resized_size = round(image_size * chosen.scale)
        self._crop = chosen.crop
        steps = [*chosen.steps, *transforms]
        self.pipeline = build_pipeline(steps, side=image_size) if steps else None

    def resize(self, image: RgbImage) -> RgbImage:
        """The deterministic part: ``(H, W, 3)`` uint8 -> ``(resized_size, resized_size, 3)``."""
        return resize_square(image, self.resized_size)

    def apply(self, resized: RgbImage, seed: int) -> RgbImage:
        """The random part: the result of ``resize`` -> ``(image_size, image_size, 3)`` uint8."""
        image = self._cropped(resized, seed)
        if self.pipeline is not None:
            # set_random_seed would start every transform from the same number, so that all of
            # them are applied together or not at all
            self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
            image = self.pipeline(image=image)["image"]
        return resize_square(image, self.image_size)

    def __call__(self, image: RgbImage, seed: int) -> RgbImage:
        """Augments one image: ``(H, W, 3)`` uint8 RGB -> ``(image_size, image_size, 3)``.

        Args:
            image: The image.
            seed: Seed of everything random.

        Raises:
            DataError: if the image has another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
        return self.apply(self.resize(image), seed)

    def __repr__(self) -> str:
        steps = [f"resize to {self.resized_size}"]
        if self._crop:
            steps.append(f"{self._crop} crop of {self.image_size}")
        if self.pipeline is not None:
            steps += [str(step) for step in self.pipeline.transforms]
        return f"{self.preset}: " + "; ".join(steps)

    def _cropped(self, image: RgbImage, seed: int) -> RgbImage:
        room = self.resized_size - self.image_size
        if not self._crop or room <= 0:
            return image
        top = left = room // 2
        if self._crop == "random":
            # The pipeline starts from the same number, so this needs another stream
            generator = random.Random(seed ^ 0x5BD1E995)
            top, left = generator.randint(0, room), generator.randint(0, room)
        return image[top : top + self.image_size, left : left + self.image_size]


def resize_square(image: RgbImage, size: int) -> RgbImage:
    """``(H, W, 3)`` uint8 -> ``(size, size, 3)``: area averages down, bilinear up."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    shrinks = height >= size and width >= size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), dtype=np.uint8)
