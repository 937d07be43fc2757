"""Augments images with boxes by albumentations: presets for smears, or a list of transforms.

The presets vary what differs between laboratories: stain (hue, saturation, brightness), focus, and
the noise and compression of the camera. None of them moves a box: geometry is up to the detector.
"""

import inspect
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbcnets.errors import ConfigError, explain_missing

# Otherwise albumentations asks the package index for a newer version at import
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

with explain_missing():
    import albumentations as A

_TRIED_SIDE = 1024

PRESETS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "stain": [
        {
            "name": "HueSaturationValue",
            "hue_shift_limit": 8,
            "sat_shift_limit": 25,
            "val_shift_limit": 15,
            "p": 0.6,
        },
        {
            "name": "RandomBrightnessContrast",
            "brightness_limit": 0.15,
            "contrast_limit": 0.2,
            "p": 0.6,
        },
    ],
    "microscope": [
        {"name": "HueSaturationValue", "hue_shift_limit": 10, "sat_shift_limit": 30, "p": 0.6},
        {"name": "RandomBrightnessContrast", "p": 0.6},
        {"name": "RandomGamma", "gamma_limit": (80, 125), "p": 0.3},
        {"name": "GaussianBlur", "blur_limit": (3, 5), "p": 0.2},
        {"name": "GaussNoise", "std_range": (0.01, 0.04), "p": 0.2},
        {"name": "ImageCompression", "quality_range": (60, 95), "p": 0.2},
    ],
}


class BoxAugmentation:
    """An albumentations pipeline on an image and its boxes, seeded by the caller.

    Args:
        transforms: Names and keywords of transforms of albumentations, in order.

    Raises:
        ConfigError: if a transform or a keyword is unknown.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        boxes = A.BboxParams(format="pascal_voc", label_fields=["indices"], clip=True, min_area=1.0)
        self.pipeline = build_pipeline(transforms, boxes)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augments one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            boxes: ``(N, 4)`` as ``(x1, y1, x2, y2)`` in px.
            seed: Decides everything random, so that workers and epochs differ and runs repeat.

        Returns:
            The image, the remaining boxes ``(M, 4)``, and their indices into ``boxes``, ``(M,)``.
        """
        # Not ``set_random_seed``: it starts every transform from the same number, so that all of
        # them would be applied together or not at all
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.pipeline(image=image, bboxes=boxes, indices=np.arange(len(boxes)))
        kept = np.asarray(result["indices"], dtype=np.int64)
        return result["image"], np.asarray(result["bboxes"], np.float32).reshape(-1, 4), kept

    def __repr__(self) -> str:
        return ", ".join(str(transform) for transform in self.pipeline.transforms)


def create_augmentation(
    preset: str, transforms: Sequence[Mapping[str, Any]] = ()
) -> BoxAugmentation | None:
    """Returns the pipeline of a preset and further transforms, or None if both are empty.

    Raises:
        ConfigError: if the preset, a transform or a keyword is unknown.
    """
    if preset not in PRESETS:
        raise ConfigError(
            f"augmentation preset {preset!r} is unknown; use one of {sorted(PRESETS)}"
        )
    steps = [*PRESETS[preset], *transforms]
    return BoxAugmentation(steps) if steps else None


def build_pipeline(
    transforms: Sequence[Mapping[str, Any]],
    boxes: A.BboxParams | None = None,
    side: int = _TRIED_SIDE,
) -> A.Compose:
    """Returns a pipeline of albumentations, for images or for images with boxes.

    Args:
        transforms: Names and keywords of transforms, in order.
        boxes: The format of the boxes; None for images alone.
        side: Side in px of the square image that each transform is tried on.

    Raises:
        ConfigError: if a transform or a keyword is unknown, a value is refused, or a transform
            fails on an image or does not give one.
    """
    for transform in transforms:
        _try(transform, side)
    steps = [_build(transform) for transform in transforms]
    with warnings.catch_warnings():
        # A pipeline that only changes colors is not a mistake
        warnings.filterwarnings("ignore", message="Got processor for bboxes")
        return A.Compose(steps, bbox_params=boxes)


def _try(transform: Mapping[str, Any], side: int) -> None:
    """Applies a transform to an image without content, whatever its probability.

    Raises:
        ConfigError: if it fails, or gives no image that the next one could take.
    """
    step = _build({**transform, "p": 1.0})
    try:
        result = A.Compose([step], seed=0)(image=np.full((side, side, 3), 128, np.uint8))["image"]
    # A transform that gets odd values raises whatever they lead it to
    except Exception as error:
        raise ConfigError(
            f"albumentations cannot apply {dict(transform)} to an image of {side}x{side} px "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
        raise ConfigError(
            f"{dict(transform)} gives no RGB image of 8 bits; leave it out: images are normalized "
            "after the augmentation"
        )


def _build(transform: Mapping[str, Any]) -> A.BasicTransform:
    options = dict(transform)
    name = options.pop("name", None)
    kind = getattr(A, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise ConfigError(f"albumentations has no transform {name!r}, in {dict(transform)}")
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{name} has no option {', '.join(unknown)}; it takes {', '.join(known)}")
    try:
        return kind(**options)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"albumentations refused {dict(transform)}: {error}") from error
