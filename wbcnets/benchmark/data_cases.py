"""The loading of training images against torchvision's, and the smear generator."""

import atexit
import shutil
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Case, Pair
from wbcnets.synthetic.smears import generate_smear

IMAGES = 128
SOURCE_SIDE = 360
IMAGE_SIZE = 224
BATCH = 32


def data_cases() -> list[Case]:
    """Returns the cases of an epoch of 128 JPEG crops without workers, and of one smear."""
    return [
        Case(
            "data/loading",
            f"{IMAGES} JPEG crops to {IMAGE_SIZE} px with flips, over torchvision's ImageFolder",
            _loading,
            ("data",),
        ),
        Case("data/smear", "one generated smear of 640x480", _smear, ("data",)),
    ]


def _loading(options: BenchmarkOptions) -> Pair:
    from wbcnets.data.cells.augmentation import CellAugmentation
    from wbcnets.data.cells.dataset import CellDataset
    from wbcnets.data.cells.loading import load_cells

    folder = crops_folder()
    manifest = load_cells(str(folder))
    augmentation = CellAugmentation("flips", IMAGE_SIZE)
    ours = CellDataset(manifest, augmentation, mean=(0.5,) * 3, std=(0.5,) * 3)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((IMAGE_SIZE, IMAGE_SIZE), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    peer = ImageFolder(str(folder), transform)
    return Pair(
        Candidate("CellDataset", lambda: _epoch(ours), items=IMAGES),
        Candidate("ImageFolder", lambda: _epoch(peer), items=IMAGES),
    )


def _epoch(dataset: Any) -> int:
    return sum(len(batch[1]) for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True))


@cache
def crops_folder() -> Path:
    """Returns a folder of JPEG crops in two classes; it is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="wbcnets-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for index in range(IMAGES):
        name = "even" if index % 2 == 0 else "odd"
        (folder / name).mkdir(exist_ok=True)
        # Four crops from each smear, one per corner
        image = _smear_image(index // 4)
        top = (index % 2) * (image.shape[0] - SOURCE_SIDE)
        left = (index // 2 % 2) * (image.shape[1] - SOURCE_SIDE)
        crop = image[top : top + SOURCE_SIDE, left : left + SOURCE_SIDE]
        cv2.imwrite(str(folder / name / f"{index:03}.jpg"), crop)
    return folder


@cache
def _smear_image(seed: int) -> Any:
    return cv2.cvtColor(generate_smear(seed=seed).image, cv2.COLOR_RGB2BGR)


def _smear(options: BenchmarkOptions) -> Pair:
    seeds = count(options.seed)
    return Pair(Candidate("generate_smear", lambda: generate_smear(seed=next(seeds))))
