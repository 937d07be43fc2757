"""Tiny runs for the tests: cells of three colors, models that train in seconds."""

from pathlib import Path

import torch
from PIL import Image

from tests.data.cells.cell_images import draw_cell
from wbcnets.train.config_file import load_config

COLORS = {"blue": (40, 40, 160), "green": (30, 140, 60), "red": (170, 30, 40)}


def make_cells(root: Path, train: int = 12, val: int = 4) -> Path:
    """Writes ``root/<split>/<color>/<number>.png``, all different."""
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw_cell(seed, color, side=36)).save(folder / f"{number}.png")
                seed += 1
    return root


def toy_config(source: Path, output: Path, *overrides: str):
    """Returns the settings of a run of seconds with random augmentation."""
    settings = [
        f"data.source={source}",
        f"output={output}",
        "model.name=test_resnet",
        "data.img_size=32",
        "data.augmentation=stain",
        "data.workers=0",
        "training.batch_size=8",
        "training.epochs=2",
        "training.clip_grad=1",
        "device=cpu",
    ]
    return load_config("", [*settings, *overrides])


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Returns all tensors of a checkpoint that training changes."""
    data = torch.load(path, weights_only=True)
    tensors = {f"model.{name}": value for name, value in data["state_dict"].items()}
    tensors |= {f"ema.{name}": value for name, value in data.get("state_dict_ema", {}).items()}
    if "resume" in data:
        tensors |= {f"loss.{name}": v for name, v in data["resume"]["loss"].items()}
        for index, entry in data["resume"]["optimizer"]["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    return tensors


def differences(first: Path, second: Path) -> list[str]:
    """Returns the names of the tensors that differ in any bit between two checkpoints."""
    one, other = read_weights(first), read_weights(second)
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
