"""Small files for the data tests, and the way to the real data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def coco(tmp_path):
    """A valid COCO object on two images of 64x48 in the folder `images`."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), "white").save(folder / name)
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 4, "name": "WBC"}, {"id": 0, "name": "RBC"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": 4,
                "bbox": [10, 10, 20, 20],
                "area": 400,
                "iscrowd": 0,
            },
            {
                "id": 5,
                "image_id": 7,
                "category_id": 0,
                "bbox": [30, 5, 10, 12.5],
                "area": 125,
                "iscrowd": 0,
            },
        ],
    }


@pytest.fixture
def noise():
    """An RGB image of 40x30 px with smooth random colours."""
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC)


@pytest.fixture
def bccd_source():
    """The published BCCD folder."""
    if not (SHARED / "bccd").is_dir():
        pytest.skip("BCCD is not in ../shared/data")
    return SHARED / "bccd"
