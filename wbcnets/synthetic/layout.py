"""The layout of a synthetic smear: class, center and radius of every cell."""

import math
from dataclasses import dataclass

import numpy as np

from wbcnets.synthetic.cells import DIAMETERS
from wbcnets.synthetic.style import DIFFERENTIALS, LEUKOCYTE_CLASSES, SmearStyle


@dataclass(frozen=True)
class CellPosition:
    """The class of a cell, its center and its mean radius, in px."""

    name: str
    x: float
    y: float
    radius: float


def _radius(rng: np.random.Generator, name: str, magnification: float) -> float:
    low, high = DIAMETERS[name]
    return 0.5 * magnification * float(rng.uniform(low, high))


def _number_of_leukocytes(rng: np.random.Generator, mean: float) -> int:
    occupied = min(mean, 15 / 16)
    if rng.random() >= occupied:
        return 0
    return 1 + int(rng.poisson(mean / occupied - 1.0))


def position_cells(rng: np.random.Generator, style: SmearStyle) -> list[CellPosition]:
    """Returns the cells of one smear: separate leukocytes, touching red cells, then platelets.

    The leukocytes come first, so that drawing in this order knows the pixels that they cover.
    """
    leukocytes = _position_leukocytes(rng, style)
    red_cells = _position_red_cells(rng, style, leukocytes)
    return [*leukocytes, *red_cells, *_position_platelets(rng, style, leukocytes)]


def _position_leukocytes(rng: np.random.Generator, style: SmearStyle) -> list[CellPosition]:
    positions: list[CellPosition] = []
    number = _number_of_leukocytes(rng, style.leukocytes)
    names = rng.choice(LEUKOCYTE_CLASSES, size=number, p=DIFFERENTIALS[style.differential])
    for name in names.tolist():
        radius = _radius(rng, name, style.magnification)
        for _ in range(30):
            x, y = rng.uniform(0.0, style.width), rng.uniform(0.0, style.height)
            if _fits(x, y, radius, positions, 0.98):
                positions.append(CellPosition(name, float(x), float(y), radius))
                break
    return positions


def _position_red_cells(
    rng: np.random.Generator, style: SmearStyle, leukocytes: list[CellPosition]
) -> list[CellPosition]:
    """Scatters red cells around the leukocytes; half of them touch an earlier one."""
    number = int(rng.poisson(style.red_cells * _area(style)))
    margin = 40.0 * style.magnification
    positions: list[CellPosition] = []
    for _ in range(number):
        radius = _radius(rng, "RBC", style.magnification)
        for _ in range(12):
            if positions and rng.random() < 0.5:
                neighbor = positions[int(rng.integers(len(positions)))]
                angle, gap = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.6, 1.05)
                x = neighbor.x + gap * (radius + neighbor.radius) * math.cos(angle)
                y = neighbor.y + gap * (radius + neighbor.radius) * math.sin(angle)
            else:
                x = rng.uniform(-margin, style.width + margin)
                y = rng.uniform(-margin, style.height + margin)
            if _fits(x, y, radius, positions, 0.55) and _fits(x, y, radius, leukocytes, 0.88):
                positions.append(CellPosition("RBC", float(x), float(y), radius))
                break
    return positions


def _area(style: SmearStyle) -> float:
    """Returns the area of the film in the image; 1 for 640x480 px at magnification 1."""
    return style.height * style.width / (480 * 640 * style.magnification**2)


def _fits(x: float, y: float, radius: float, others: list[CellPosition], closeness: float) -> bool:
    return all(math.hypot(x - p.x, y - p.y) > closeness * (radius + p.radius) for p in others)


def _position_platelets(
    rng: np.random.Generator, style: SmearStyle, leukocytes: list[CellPosition]
) -> list[CellPosition]:
    positions: list[CellPosition] = []
    for _ in range(int(rng.poisson(style.platelets * _area(style)))):
        radius = _radius(rng, "platelet", style.magnification)
        for _ in range(12):
            x, y = float(rng.uniform(0, style.width)), float(rng.uniform(0, style.height))
            if _fits(x, y, radius, leukocytes, 1.0) and _fits(x, y, radius, positions, 0.8):
                positions.append(CellPosition("platelet", x, y, radius))
                break
    return positions
