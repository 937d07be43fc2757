"""Absorption, light and camera: turns amounts of stain into an image of a smear.

A stained film absorbs light by the Beer-Lambert law: the optical densities of its layers add up,
I = I0 * exp(-sum_k amount_k * absorption_k), per color channel. A Romanowsky stain colors by eosin
(pink), by methylene blue (blue) and by the azure-eosin complex (purple nuclei); hemoglobin absorbs
in red cells. The absorptions are chosen by eye and by color statistics of published images, not
measured with a spectrometer.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from wbcnets.synthetic.cells import FloatArray


@dataclass(frozen=True)
class Stain:
    """Colors of a stained film.

    Attributes:
        background: RGB of the empty film, 0 to 255.
        absorption: (4, 3), optical density in R, G and B of one unit of hemoglobin, eosin, azure
            and methylene blue. Cameras render fluorescent purple as a slightly negative blue.
    """

    background: FloatArray
    absorption: FloatArray


def _stain(background: tuple[float, ...], *absorption: tuple[float, ...]) -> Stain:
    return Stain(np.array(background, dtype=np.float32), np.array(absorption, dtype=np.float32))


STAINS: dict[str, Stain] = {
    "wright": _stain(
        (204.0, 206.0, 201.0),
        (0.125, 0.30, 0.285),
        (0.27, 0.88, 0.74),
        (0.80, 1.05, -0.07),
        (0.95, 0.70, -0.08),
    ),
    "giemsa": _stain(
        (222.0, 214.0, 222.0),
        (0.17, 0.33, 0.20),
        (0.30, 0.95, 0.60),
        (1.05, 1.35, 0.22),
        (1.10, 0.75, 0.05),
    ),
    "may_grunwald": _stain(
        (250.0, 228.0, 202.0),
        (0.22, 0.32, 0.26),
        (0.30, 0.85, 0.66),
        (1.35, 1.95, 0.58),
        (0.95, 0.72, 0.10),
    ),
}


# Fraction of the light that reaches the sensor without passing the cell: glare lifts the shadows
_GLARE = 0.1


def stain_colors(stain: str | float) -> Stain:
    """Returns a stain by name, or mixes one by its balance.

    Args:
        stain: A key of ``STAINS``, or a number from 0.0 (eosin-pink) to 1.0 (methylene-blue), which
            shifts hue and strength of the dyes of "wright".
    """
    if isinstance(stain, str):
        return STAINS[stain]
    base = STAINS["wright"]
    strength = np.array([1.25 - 0.5 * stain, 1.4 - 0.8 * stain, 1.0, 0.5 + stain])
    absorption = base.absorption * strength[:, None].astype(np.float32)
    pink, blue = np.array([0.5, 1.1, 0.2]), np.array([1.05, 1.0, -0.1])
    absorption[2] = (1.0 - stain) * pink + stain * blue
    tint = np.array([4.0, -2.0, -1.0], dtype=np.float32) * np.float32(1.0 - 2.0 * stain)
    return Stain(base.background + tint, absorption)


def jitter_stain(rng: np.random.Generator, stain: Stain) -> Stain:
    """Returns a stain varied as by batches and cameras: strength and hue per dye, tint of light."""
    strength = np.exp(rng.normal(0.0, 0.1, (4, 1)))
    hue = 1.0 + rng.normal(0.0, 0.07, (4, 3))
    absorption = stain.absorption * strength * hue
    tint = rng.normal(0.0, 3.0) + rng.normal(0.0, 2.0, 3)
    background = np.clip(stain.background + tint, 120.0, 254.0)
    return Stain(background.astype(np.float32), absorption.astype(np.float32))


def light_field(rng: np.random.Generator, height: int, width: int, unevenness: float) -> FloatArray:
    """Returns the illumination, (height, width) around 1: gradient, vignette and soft patches."""
    y, x = np.mgrid[-1.0:1.0:12j, -1.0:1.0:16j]
    slope = rng.normal(0.0, 0.35, 2)
    center = rng.normal(0.0, 0.25, 2)
    vignette = -0.5 * (np.square(x - center[0]) + np.square(y - center[1]))
    field = slope[0] * x + slope[1] * y + vignette + 0.12 * rng.standard_normal((12, 16))
    field = 1.0 + unevenness * (field - field.mean())
    light = cv2.resize(field.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.poisson(1.0)):
        _shade_dust(rng, light, unevenness)
    return np.asarray(light, dtype=np.float32)


def _shade_dust(rng: np.random.Generator, light: np.ndarray, unevenness: float) -> None:
    """Darkens a small blurred oval, like dust out of focus."""
    height, width = light.shape
    y, x = np.ogrid[:height, :width]
    spread = min(height, width) * rng.uniform(0.012, 0.03, 2)
    across = np.exp(-0.5 * np.square((x - rng.uniform(0, width)) / spread[0]))
    down = np.exp(-0.5 * np.square((y - rng.uniform(0, height)) / spread[1]))
    light *= (1.0 - unevenness * rng.uniform(0.5, 3.0) * down * across).astype(np.float32)


def transmit(absorbers: FloatArray, stain: Stain, light: FloatArray) -> FloatArray:
    """Returns the colors of the film by the Beer-Lambert law, (H, W, 3) RGB in about [0, 255].

    Args:
        absorbers: (4, H, W), the summed amounts.
        stain: The colors of the dyes.
        light: (H, W), the illumination.
    """
    amounts = absorbers.reshape(len(absorbers), -1).T
    density = (amounts @ stain.absorption).reshape(*light.shape, 3)
    colors: FloatArray = np.asarray(cv2.exp(-density), dtype=np.float32)
    colors *= np.float32(1.0 - _GLARE)
    colors += np.float32(_GLARE)
    colors *= stain.background
    colors *= light[..., None]
    return colors


def photograph(
    rng: np.random.Generator, colors: FloatArray, blur: float, softness: float, noise: float
) -> np.ndarray:
    """Returns the camera's image, (H, W, 3) uint8 RGB: defocus, sharpening, noise, 8 bits.

    Args:
        rng: Source of the noise.
        colors: (H, W, 3) RGB, 0 to 255.
        blur: Standard deviation of the defocus in pixels.
        softness: Standard deviation of the additional blur of the color differences in pixels, as
            in JPEG images with chroma subsampling.
        noise: Standard deviation of the noise in gray levels.
    """
    if blur > 0:
        colors = np.asarray(cv2.GaussianBlur(colors, (0, 0), blur), dtype=np.float32)
    halo = cv2.blur(cv2.blur(colors, (7, 7)), (7, 7))
    colors = colors + np.float32(0.45) * (colors - halo)
    height, width = colors.shape[:2]
    gray = colors.mean(axis=2, keepdims=True)
    if softness > 0:
        colors = gray + cv2.GaussianBlur(colors - gray, (0, 0), softness)
    if noise > 0:
        grain = rng.standard_normal((height, width), dtype=np.float32)
        colors = colors + cv2.GaussianBlur(grain, (3, 3), 0.6)[..., None] * np.float32(1.8 * noise)
    return np.clip(colors + np.float32(0.5), 0, 255).astype(np.uint8)
