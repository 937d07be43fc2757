"""Small cell-like images for the tests: a disc of a class's color on a noisy ground."""

import numpy as np
from PIL import Image


def draw_cell(seed, color=(90, 40, 140), side=40):
    generator = np.random.default_rng(seed)
    image = generator.integers(150, 250, (8, 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:side, :side]
    center, radius = generator.uniform(0.35, 0.65, 2) * side, generator.uniform(0.15, 0.3) * side
    image[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2] = color
    return image


def save_cell(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_cell(seed, **options)).save(path)
    return path


def make_class_folders(root, counts, start=0):
    """Writes `root/<class>/<number>.png`; every image is another one."""
    seed = start
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save_cell(root / name / f"{number}.png", seed)
            seed += 1
    return root
