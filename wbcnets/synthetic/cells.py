"""The cells of synthetic smears, drawn as amounts of stain.

A cell is drawn into its own small patch as four planes of absorber (hemoglobin, eosin, azure,
methylene blue); ``wbcnets.synthetic.smears`` adds the patches up, and ``wbcnets.synthetic.optics``
turns the sum into color. Sizes are in pixels at magnification 1.0, where a red cell of 7.5 um is
about 105 pixels wide, as in BCCD; morphology follows the usual textbook description of each cell.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

ABSORBERS = ("hemoglobin", "eosin", "azure", "methylene")
HEMOGLOBIN, EOSIN, AZURE, METHYLENE = range(4)

# Smallest and largest diameter of each class, in px at magnification 1.0
DIAMETERS: dict[str, tuple[float, float]] = {
    "RBC": (92.0, 116.0),
    "platelet": (24.0, 44.0),
    "neutrophil": (168.0, 208.0),
    "eosinophil": (172.0, 214.0),
    "basophil": (156.0, 190.0),
    "lymphocyte": (118.0, 158.0),
    "monocyte": (202.0, 248.0),
}
LARGEST_DIAMETER = 330
_OUTLINE_STEPS = 720


@dataclass(frozen=True)
class Cell:
    """One rendered cell.

    Attributes:
        absorbers: (4, h, w), the amount of each of ``ABSORBERS``; 0 outside the cell.
        cover: (h, w) in [0, 1], the fraction of each pixel that the cell covers.
    """

    absorbers: FloatArray
    cover: FloatArray


class Texture:
    """Noise that the cells of one smear share; each cell cuts out its own window.

    Args:
        rng: Source of the noise.
        magnification: Scale of the grain; the largest window is ``LARGEST_DIAMETER`` times that.
    """

    def __init__(self, rng: np.random.Generator, magnification: float) -> None:
        self._rng = rng
        self._side = math.ceil(LARGEST_DIAMETER * magnification) + 128
        self._planes = [self._noise(grain * magnification) for grain in (26.0, 9.0, 3.6)]

    def _noise(self, grain: float) -> FloatArray:
        cells = max(4, round(self._side / max(grain, 1.0)))
        coarse = self._rng.standard_normal((cells, cells), dtype=np.float32)
        noise = cv2.resize(coarse, (self._side, self._side), interpolation=cv2.INTER_CUBIC)
        return np.asarray(noise / noise.std(), dtype=np.float32)

    def windows(self, height: int, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns three (height, width) windows of unit variance: coarse, medium and fine grain."""
        top = int(self._rng.integers(0, self._side - height + 1))
        left = int(self._rng.integers(0, self._side - width + 1))
        coarse, medium, fine = (p[top : top + height, left : left + width] for p in self._planes)
        return coarse, medium, fine


@dataclass(frozen=True)
class _Body:
    """A cell's outline on its patch; x and y in radii, rotated at random.

    ``edge`` is the distance from the center over the outline's distance in that direction, so that
    the cell is where it is below 1.
    """

    x: FloatArray
    y: FloatArray
    edge: FloatArray
    cover: FloatArray
    radius: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.cover.shape[0], self.cover.shape[1]

    def soft(self, distance: FloatArray, width: float = 1.6) -> FloatArray:
        """Returns the cover, with a soft border, of a signed distance (radii, negative inside)."""
        return np.clip(0.5 - distance * np.float32(self.radius / width), 0.0, 1.0)


def _body(rng: np.random.Generator, radius: float, oval: float, wobble: float) -> _Body:
    angles = np.linspace(0.0, 2.0 * math.pi, _OUTLINE_STEPS, endpoint=False)
    outline = 1.0 + oval * np.cos(2.0 * angles + rng.uniform(0.0, 2.0 * math.pi))
    for order in range(3, 9):
        swing = wobble * rng.normal() / (order - 1.5)
        outline = outline + swing * np.cos(order * angles + rng.uniform(0.0, 2.0 * math.pi))
    outline = np.clip(outline, 0.6, 1.35).astype(np.float32)
    half = math.ceil(radius * float(outline.max())) + 2
    line = np.arange(-half, half + 1, dtype=np.float32) / np.float32(radius)
    x, y = (grid.astype(np.float32) for grid in np.meshgrid(line, line))
    distance, angle = cv2.cartToPolar(x, y)
    step = (angle * np.float32(_OUTLINE_STEPS / (2.0 * math.pi))).astype(np.int32)
    edge = distance / outline[np.minimum(step, _OUTLINE_STEPS - 1)]
    cover = np.clip((1.0 - edge) * np.float32(radius / 1.6) + 0.5, 0.0, 1.0)
    turn = rng.uniform(0.0, 2.0 * math.pi)
    cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    turned = cosine * x + sine * y, cosine * y - sine * x
    return _Body(*turned, np.asarray(edge, np.float32), np.asarray(cover, np.float32), radius)


def _ramp(values: FloatArray, low: float, high: float) -> FloatArray:
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _ellipse(
    x: FloatArray,
    y: FloatArray,
    center: tuple[float, float],
    axes: tuple[float, float],
    turn: float,
) -> FloatArray:
    cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    dx, dy = x - np.float32(center[0]), y - np.float32(center[1])
    along = (cosine * dx + sine * dy) / np.float32(axes[0])
    across = (cosine * dy - sine * dx) / np.float32(axes[1])
    return (cv2.magnitude(along, across) - 1.0) * np.float32(min(axes))


def _strand(
    x: FloatArray, y: FloatArray, start: tuple[float, float], end: tuple[float, float], width: float
) -> FloatArray:
    ax, ay = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    dx, dy = x - np.float32(start[0]), y - np.float32(start[1])
    along = np.clip((dx * ax + dy * ay) / max(float(ax * ax + ay * ay), 1e-6), 0.0, 1.0)
    return cv2.magnitude(dx - along * ax, dy - along * ay) - np.float32(width)


def _merge(distances: list[FloatArray], sharpness: float = 16.0) -> FloatArray:
    total = np.exp(-sharpness * distances[0])
    for distance in distances[1:]:
        total += np.exp(-sharpness * distance)
    return -np.log(total + np.float32(1e-12)) / np.float32(sharpness)


def _lobes(
    rng: np.random.Generator,
    x: FloatArray,
    y: FloatArray,
    axes: list[tuple[float, float]],
    span: float,
    ring: float,
) -> FloatArray:
    """Returns the signed distance of a nucleus of lobes along an arc, joined by strands.

    Each lobe's ``axes`` are its half lengths along and across the arc, which covers ``span``
    radians of a circle of radius ``ring``.
    """
    centers: list[tuple[float, float]] = []
    distances: list[FloatArray] = []
    for index, (along, across) in enumerate(axes):
        angle = span * (index / (len(axes) - 1) - 0.5) + rng.normal(0.0, 0.1)
        reach = ring * rng.uniform(0.88, 1.1)
        center = (reach * math.cos(angle) - 0.1, reach * math.sin(angle))
        turn = angle + math.pi / 2 + rng.normal(0.0, 0.35)
        distances.append(_ellipse(x, y, center, (along, across), turn))
        centers.append(center)
    for start, end in pairwise(centers):
        distances.append(_strand(x, y, start, end, rng.uniform(0.03, 0.09)))
    return _merge(distances, 24.0)


def _granules(
    rng: np.random.Generator, body: _Body, count: int, size: float, reach: float = 0.92
) -> FloatArray:
    """Returns round granules scattered over the cell, (h, w) in [0, 1]; ``size`` is in radii."""
    height, width = body.shape
    canvas = np.zeros((height, width), dtype=np.uint8)
    distance = reach * body.radius * np.sqrt(rng.random(count))
    angle = rng.uniform(0.0, 2.0 * math.pi, count)
    columns = np.round(16 * (width // 2 + distance * np.cos(angle))).astype(int)
    rows = np.round(16 * (height // 2 + distance * np.sin(angle))).astype(int)
    radii = np.round(16 * size * body.radius * rng.uniform(0.7, 1.3, count)).astype(int)
    levels = rng.integers(120, 256, count)
    for column, row, radius, level in zip(
        columns.tolist(), rows.tolist(), radii.tolist(), levels.tolist()
    ):
        cv2.circle(canvas, (column, row), radius, level, cv2.FILLED, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255.0)


def _chromatin(
    texture: tuple[FloatArray, FloatArray, FloatArray], clumps: float, lace: float
) -> FloatArray:
    """Returns the relative density of a nucleus: dark clumps with a lace of fine grain."""
    _, medium, fine = texture
    return np.clip(1.0 + clumps * np.tanh(medium) + lace * fine, 0.35, 1.6).astype(np.float32)


def _compose(body: _Body, planes: dict[int, FloatArray]) -> Cell:
    absorbers = np.zeros((len(ABSORBERS), *body.shape), dtype=np.float32)
    for index, amount in planes.items():
        np.multiply(amount, body.cover, out=absorbers[index])
    return Cell(np.maximum(absorbers, 0.0, out=absorbers), body.cover)


def _draw_rbc(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws a disc that is thinner in the middle (central pallor), with a darker rim."""
    oval = min(abs(rng.normal(0.0, 0.09)), 0.28)
    body = _body(rng, radius, oval, abs(rng.normal(0.0, 0.035)))
    coarse, medium, _ = texture.windows(*body.shape)
    amount = 0.8 * math.exp(rng.normal(0.0, 0.16))
    pallor = float(np.clip(rng.normal(0.5, 0.33), 0.0, 0.95))
    inner = rng.uniform(0.15, 0.4), rng.uniform(0.58, 0.85)
    offset = rng.normal(0.0, 0.07, 2).astype(np.float32)
    middle = 0.5 * cv2.magnitude(body.x - offset[0], body.y - offset[1]) + 0.5 * body.edge
    thickness = 1.0 - pallor * (1.0 - _ramp(middle, *inner))
    rim = np.exp(-np.square((1.0 - body.edge) * np.float32(1.0 / 0.07)))
    density = amount * (thickness * (1.0 + 0.04 * coarse + 0.02 * medium) + 0.28 * rim)
    if rng.random() < 0.08:
        density = density + _bubble(rng, body)
    blueness = max(0.0, float(rng.normal(0.005, 0.02)))
    return _compose(body, {HEMOGLOBIN: density, METHYLENE: np.float32(blueness) * thickness})


def _bubble(rng: np.random.Generator, body: _Body) -> FloatArray:
    """Returns a refractile drying artifact of a red cell: a dark ring around a bright spot."""
    center = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    distance = cv2.magnitude(body.x - center[0], body.y - center[1])
    size = np.float32(rng.uniform(0.04, 0.16))
    arc = 0.6 + 0.4 * body.x / (distance + np.float32(0.05))
    ring = np.exp(-np.square((distance - size) * np.float32(14.0))) * arc
    spot = np.exp(-np.square(distance / (np.float32(0.7) * size)))
    return np.float32(rng.uniform(0.15, 0.6)) * ring - np.float32(rng.uniform(0.2, 0.6)) * spot


def _draw_platelet(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws a small ragged purple body, granular and denser in the middle."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.12)), 0.07)
    _, medium, fine = texture.windows(*body.shape)
    core = np.clip(1.2 - body.edge, 0.0, 1.0) ** np.float32(0.7)
    grain = np.clip(1.0 + 0.3 * medium + 0.25 * fine, 0.2, 2.0)
    amount = rng.uniform(0.25, 0.6)
    return _compose(body, {AZURE: amount * core * grain, METHYLENE: rng.uniform(0.1, 0.25) * core})


def _draw_neutrophil(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws three to five nuclear lobes in pale pink, finely granular cytoplasm."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.05)), 0.025)
    noise = coarse, medium, fine = texture.windows(*body.shape)
    count = int(rng.choice((3, 4, 5), p=(0.45, 0.4, 0.15)))
    size = {3: 0.27, 4: 0.235, 5: 0.21}[count]
    axes = [(size * rng.uniform(1.05, 1.4), size * rng.uniform(0.75, 1.0)) for _ in range(count)]
    span = rng.uniform(0.9, 1.25) * (count - 1) * (1.35 if count == 3 else 1.15)
    x, y = body.x + 0.035 * coarse, body.y + 0.012 * medium
    distance = _lobes(rng, x, y, axes, span, rng.uniform(0.42, 0.52))
    nucleus = body.soft(distance)
    cytoplasm = rng.uniform(0.11, 0.2) * (1.0 + 0.1 * coarse + 0.22 * np.maximum(fine, -1.0))
    rest = 1.0 - 0.8 * nucleus
    dense = rng.uniform(0.9, 1.15) * nucleus * _chromatin(noise, 0.16, 0.05)
    pink = rng.uniform(0.06, 0.13) * rest
    return _compose(body, {AZURE: dense + cytoplasm * rest, EOSIN: pink})


def _draw_eosinophil(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws two (rarely three) plump lobes among coarse orange-red granules."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.05)), 0.025)
    noise = coarse, medium, _ = texture.windows(*body.shape)
    count = 2 if rng.random() < 0.85 else 3
    size = (0.33 if count == 2 else 0.27) * rng.uniform(0.95, 1.1)
    axes = [(size * rng.uniform(1.0, 1.25), size * rng.uniform(0.8, 1.0)) for _ in range(count)]
    span = rng.uniform(1.9, 2.7) if count == 2 else rng.uniform(2.9, 3.8)
    x, y = body.x + 0.03 * coarse, body.y + 0.01 * medium
    distance = _lobes(rng, x, y, axes, span, rng.uniform(0.44, 0.52))
    nucleus = body.soft(distance)
    granules = _granules(rng, body, int(rng.integers(480, 640)), 0.034)
    rest = 1.0 - 0.85 * nucleus
    grains = (rng.uniform(0.4, 0.58) * granules + rng.uniform(0.14, 0.24)) * rest
    dense = rng.uniform(0.85, 1.1) * nucleus * _chromatin(noise, 0.16, 0.05)
    return _compose(body, {AZURE: dense + 0.03 * rest, EOSIN: grains})


def _draw_basophil(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws an indistinct nucleus that coarse blue-black granules all but hide."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.05)), 0.03)
    noise = coarse, medium, _ = texture.windows(*body.shape)
    axes = [(rng.uniform(0.4, 0.52), rng.uniform(0.32, 0.45)) for _ in range(2)]
    x, y = body.x + 0.06 * coarse, body.y + 0.04 * medium
    distance = _lobes(rng, x, y, axes, rng.uniform(1.5, 2.4), rng.uniform(0.35, 0.45))
    nucleus = body.soft(distance, 6.0)
    granules = _granules(rng, body, int(rng.integers(190, 330)), 0.042, 0.98)
    base = rng.uniform(0.3, 0.45) + rng.uniform(0.55, 0.75) * nucleus * _chromatin(
        noise, 0.15, 0.06
    )
    azure = base + rng.uniform(0.5, 0.75) * granules
    return _compose(body, {AZURE: azure, METHYLENE: rng.uniform(0.1, 0.25) * granules})


def _draw_lymphocyte(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws a dense round nucleus that all but fills the cell, in a thin rim of clear blue."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.06)), 0.03)
    noise = coarse, medium, _ = texture.windows(*body.shape)
    fill = rng.uniform(0.74, 0.9)
    shift = (1.0 - fill) * rng.uniform(0.2, 0.9)
    x, y = body.x + 0.02 * coarse, body.y + 0.007 * medium
    axes = fill * rng.uniform(0.97, 1.05), fill * rng.uniform(0.9, 1.0)
    distance = _ellipse(x, y, (shift, 0.0), axes, rng.uniform(0.0, math.pi))
    if rng.random() < 0.25:
        notch = _ellipse(x, y, (shift - fill * 1.05, 0.1), (0.3, 0.24), 0.0)
        distance = np.maximum(distance, -notch)
    nucleus = body.soft(distance)
    rest = 1.0 - 0.8 * nucleus
    blue = rng.uniform(0.22, 0.42) * (1.0 + 0.15 * medium) * rest
    dense = rng.uniform(0.95, 1.2) * nucleus * _chromatin(noise, 0.22, 0.04)
    return _compose(body, {AZURE: dense + 0.04 * rest, METHYLENE: blue})


def _monocyte_nucleus(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns the signed distance of a kidney, or of a horseshoe: a thick arc."""
    if rng.random() < 0.6:
        axes = rng.uniform(0.6, 0.72), rng.uniform(0.48, 0.6)
        kidney = _ellipse(x, y, (0.05, 0.0), axes, math.pi / 2)
        notch = _ellipse(x, y, (-rng.uniform(0.42, 0.6), rng.normal(0.0, 0.1)), (0.34, 0.24), 0.0)
        return -_merge([-kidney, notch], 14.0)
    span, ring = rng.uniform(2.8, 4.2), rng.uniform(0.4, 0.48)
    angles = np.linspace(-span / 2, span / 2, 6)
    points = [(ring * math.cos(a), ring * math.sin(a)) for a in angles.tolist()]
    width = rng.uniform(0.22, 0.28)
    return _merge([_strand(x, y, a, b, width) for a, b in pairwise(points)], 14.0) + 0.04


def _draw_monocyte(rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Draws a folded, lacy nucleus in plentiful gray-blue cytoplasm, often with vacuoles."""
    body = _body(rng, radius, abs(rng.normal(0.0, 0.09)), 0.07)
    noise = coarse, medium, fine = texture.windows(*body.shape)
    distance = _monocyte_nucleus(rng, body.x + 0.05 * coarse, body.y + 0.008 * medium)
    nucleus = body.soft(distance, 2.4)
    ground = 1.0 + 0.15 * coarse + 0.12 * medium + 0.1 * fine
    vacuoles = _granules(rng, body, int(rng.integers(0, 14)), 0.05, 0.88)
    rest = (1.0 - 0.8 * nucleus) * (1.0 - 0.75 * vacuoles * (1.0 - nucleus))
    dense = rng.uniform(0.7, 0.92) * nucleus * _chromatin(noise, 0.2, 0.09)
    blue = rng.uniform(0.12, 0.23) * ground * rest
    azure = np.asarray(dense + rng.uniform(0.07, 0.15) * rest, dtype=np.float32)
    return _compose(body, {AZURE: azure, METHYLENE: blue})


_Draw = Callable[[np.random.Generator, float, Texture], Cell]
_DRAWERS: dict[str, _Draw] = {
    "RBC": _draw_rbc,
    "platelet": _draw_platelet,
    "neutrophil": _draw_neutrophil,
    "eosinophil": _draw_eosinophil,
    "basophil": _draw_basophil,
    "lymphocyte": _draw_lymphocyte,
    "monocyte": _draw_monocyte,
}


def draw_cell(name: str, rng: np.random.Generator, radius: float, texture: Texture) -> Cell:
    """Returns a cell on a patch with an odd number of rows and columns, centered.

    Args:
        name: The class, a key of ``DIAMETERS``.
        rng: Source of the cell's shape.
        radius: Mean radius in px.
        texture: The smear's noise.
    """
    return _DRAWERS[name](rng, radius, texture)
