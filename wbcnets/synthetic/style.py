"""The classes of synthetic smears, and the parameters of their look."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wbcnets.errors import ConfigError
from wbcnets.synthetic.optics import STAINS

SMEAR_CLASSES = (
    "RBC",
    "platelet",
    "neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
)
LEUKOCYTE_CLASSES = SMEAR_CLASSES[2:]

# Fractions of neutrophils, eosinophils, basophils, lymphocytes and monocytes among the leukocytes;
# "blood" is the middle of the usual adult reference ranges
DIFFERENTIALS = {
    "uniform": (0.2, 0.2, 0.2, 0.2, 0.2),
    "blood": (0.60, 0.03, 0.01, 0.30, 0.06),
}


@dataclass(frozen=True)
class SmearStyle:
    """The look of the smears of a dataset.

    Args:
        height: Image height in pixels, at least 32.
        width: Image width in pixels, at least 32.
        stain: "wright", "giemsa", "may_grunwald" or "random" (one of them per image), or a balance
            from 0.0 (eosin-pink) to 1.0 (methylene-blue).
        magnification: Size of the cells; at 1.0 a red cell is about 105 pixels wide, a leukocyte
            120 to 250, a platelet 24 to 44. Between 0.1 and 4.
        red_cells: Mean number of red cells on 640 x 480 pixels at magnification 1.0; proportional
            to the area of the film in the image.
        platelets: Mean number of platelets, on the same area.
        leukocytes: Mean number of leukocytes in an image, whatever its area; one image in 16 has
            none.
        differential: Fractions of the leukocyte classes, a key of ``DIFFERENTIALS``.
        unevenness: Strength of vignette and gradient of the light, 0 to 0.5.
        blur: Defocus, standard deviation in pixels.
        softness: Additional blur of the colors, standard deviation in pixels.
        noise: Standard deviation of the sensor noise in gray levels.
        vary: Vary stain, light, magnification (by a tenth), density and camera from image to image.
    """

    height: int = 480
    width: int = 640
    stain: str | float = "wright"
    magnification: float = 1.0
    red_cells: float = 24.0
    platelets: float = 2.0
    leukocytes: float = 1.5
    differential: str = "uniform"
    unevenness: float = 0.06
    blur: float = 1.5
    softness: float = 2.0
    noise: float = 1.3
    vary: bool = True

    def __post_init__(self) -> None:
        problems = [f"{name} must be {rule}, got {value!r}" for name, rule, value in _broken(self)]
        if problems:
            raise ConfigError("SmearStyle: " + "; ".join(problems) + ".")


def _broken(style: SmearStyle) -> Iterator[tuple[str, str, object]]:
    ranges = {
        "height": (32, 8192),
        "width": (32, 8192),
        "magnification": (0.1, 4.0),
        "red_cells": (0.0, 500.0),
        "platelets": (0.0, 500.0),
        "leukocytes": (0.0, 100.0),
        "unevenness": (0.0, 0.5),
        "blur": (0.0, 20.0),
        "softness": (0.0, 20.0),
        "noise": (0.0, 64.0),
    }
    for name, (low, high) in ranges.items():
        value = getattr(style, name)
        if not low <= value <= high:
            yield name, f"from {low} to {high}", value
    names = (*STAINS, "random")
    known = style.stain in names if isinstance(style.stain, str) else 0.0 <= style.stain <= 1.0
    if not known:
        yield "stain", f"one of {', '.join(names)} or a number from 0.0 to 1.0", style.stain
    if style.differential not in DIFFERENTIALS:
        yield "differential", f"one of {', '.join(DIFFERENTIALS)}", style.differential


def varied_style(rng: np.random.Generator, style: SmearStyle) -> SmearStyle:
    """Returns a style with the scale, density, light and camera of one image varied."""
    scale = float(np.clip(math.exp(rng.normal(0.0, 0.06)), 0.85, 1.18))
    return dataclasses.replace(
        style,
        magnification=min(max(style.magnification * scale, 0.1), 4.0),
        red_cells=min(style.red_cells * math.exp(rng.normal(0.0, 0.3)), 500.0),
        unevenness=min(style.unevenness * rng.uniform(0.4, 1.6), 0.5),
        blur=min(style.blur * rng.uniform(0.5, 1.7), 20.0),
        noise=min(style.noise * rng.uniform(0.6, 1.5), 64.0),
    )
