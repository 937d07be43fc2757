"""Real files with flipped bits or missing ends: no damaged checkpoint loads."""

import json
import random
import shutil

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.stress.soak.scale import LONG, scaled
from wbcnets.errors import CheckpointError, DataError
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.io.images import read_image
from wbcnets.io.strict_json import read_json

pytestmark = pytest.mark.timeout(3600 if LONG else 300)
WEIGHTS = REPOSITORY / "wbcnets" / "models" / "weights" / "resnext_cc_26.pbc.safetensors"


def damaged(content, number, generator):
    """Returns a copy with one bit flipped, or cut short."""
    if number % 3 == 2:
        return content[: generator.randrange(len(content))]
    changed = bytearray(content)
    changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def test_a_shipped_checkpoint(tmp_path):
    path = tmp_path / WEIGHTS.name
    for suffix in ("", ".sha256"):
        shutil.copy(f"{WEIGHTS}{suffix}", f"{path}{suffix}")
    read_checkpoint(path)
    whole = path.read_bytes()
    generator = random.Random(0)
    for number in range(scaled(30, 1000)):
        path.write_bytes(damaged(whole, number, generator))
        with pytest.raises(CheckpointError, match=r"damaged|empty"):
            read_checkpoint(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images(shared_data, tmp_path, suffix):
    from PIL import Image

    source = next((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))
    path = tmp_path / f"x.{suffix}"
    if suffix == "jpg":
        shutil.copy(source, path)
    else:
        Image.open(source).crop((0, 0, 160, 120)).save(path)
    whole, pixels = path.read_bytes(), read_image(path)
    generator = random.Random(0)
    counts = {"the same": 0, "refused": 0, "other pixels": 0}
    for number in range(scaled(60, 3000)):
        path.write_bytes(damaged(whole, number, generator))
        try:
            same = np.array_equal(read_image(path), pixels)
            counts["the same" if same else "other pixels"] += 1
        except DataError as error:
            counts["refused"] += path.name in str(error)
    print(f"{suffix}: {counts}")
    assert sum(counts.values()) == scaled(60, 3000)
    # PNG has checksums; JPEG has none, so a flipped bit gives another image
    assert counts["other pixels"] == 0 or suffix == "jpg"


def test_annotations(smears, tmp_path):
    path = tmp_path / "x.json"
    whole = smears.json_file.read_bytes()
    generator = random.Random(0)
    refused = 0
    for number in range(scaled(200, 5000)):
        path.write_bytes(damaged(whole, number, generator))
        try:
            json.dumps(read_json(path))
        except DataError as error:
            refused += "x.json" in str(error)
    assert refused > scaled(200, 5000) // 4
