"""Where the cells of a synthetic smear lie."""

import math
from dataclasses import dataclass

import numpy as np

from wbcnets.synthetic.cells import DIAMETERS
from wbcnets.synthetic.style import DIFFERENTIALS, LEUKOCYTE_CLASSES, SmearStyle


@dataclass(frozen=True)
class Place:
    """Where a cell goes: center and mean radius in pixels."""

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


def place_cells(rng: np.random.Generator, style: SmearStyle) -> list[Place]:
    """Lays out one smear: leukocytes apart from each other, red cells touching, platelets between.

    The leukocytes come first, so that whoever draws in this order knows what they cover.
    """
    leukocytes = _place_leukocytes(rng, style)
    red_cells = _place_red_cells(rng, style, leukocytes)
    return [*leukocytes, *red_cells, *_place_platelets(rng, style, leukocytes)]


def _place_leukocytes(rng: np.random.Generator, style: SmearStyle) -> list[Place]:
    places: list[Place] = []
    number = _number_of_leukocytes(rng, style.leukocytes)
    names = rng.choice(LEUKOCYTE_CLASSES, size=number, p=DIFFERENTIALS[style.differential])
    for name in names.tolist():
        radius = _radius(rng, name, style.magnification)
        for _ in range(30):
            x, y = rng.uniform(0.0, style.width), rng.uniform(0.0, style.height)
            if all(math.hypot(x - p.x, y - p.y) > 0.98 * (radius + p.radius) for p in places):
                places.append(Place(name, float(x), float(y), radius))
                break
    return places


def _place_red_cells(
    rng: np.random.Generator, style: SmearStyle, leukocytes: list[Place]
) -> list[Place]:
    """Scatters red cells, half of them leaning on an earlier one, around the leukocytes."""
    area = style.height * style.width / (480 * 640 * style.magnification**2)
    number = int(rng.poisson(style.red_cells * area))
    margin = 40.0 * style.magnification
    places: list[Place] = []
    for _ in range(number):
        radius = _radius(rng, "RBC", style.magnification)
        for _ in range(12):
            if places and rng.random() < 0.5:
                friend = places[int(rng.integers(len(places)))]
                angle, gap = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.6, 1.05)
                x = friend.x + gap * (radius + friend.radius) * math.cos(angle)
                y = friend.y + gap * (radius + friend.radius) * math.sin(angle)
            else:
                x = rng.uniform(-margin, style.width + margin)
                y = rng.uniform(-margin, style.height + margin)
            if _fits(x, y, radius, places, 0.55) and _fits(x, y, radius, leukocytes, 0.88):
                places.append(Place("RBC", float(x), float(y), radius))
                break
    return places


def _fits(x: float, y: float, radius: float, others: list[Place], closeness: float) -> bool:
    return all(math.hypot(x - p.x, y - p.y) > closeness * (radius + p.radius) for p in others)


def _place_platelets(
    rng: np.random.Generator, style: SmearStyle, leukocytes: list[Place]
) -> list[Place]:
    area = style.height * style.width / (480 * 640 * style.magnification**2)
    places: list[Place] = []
    for _ in range(int(rng.poisson(style.platelets * area))):
        radius = _radius(rng, "platelet", style.magnification)
        for _ in range(12):
            x, y = float(rng.uniform(0, style.width)), float(rng.uniform(0, style.height))
            if _fits(x, y, radius, leukocytes, 1.0) and _fits(x, y, radius, places, 0.8):
                places.append(Place("platelet", x, y, radius))
                break
    return places
