"""Files of weights, found by path or by name."""

import os
from pathlib import Path
from typing import Any

import timm
from detectron2.utils.file_io import PathManager

from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import read_checkpoint

WEIGHTS_FOLDER = Path(__file__).resolve().parents[2] / "weights"


def read_weights(path: str) -> dict[str, Any]:
    """A checkpoint by path, `wbcnets://NAME`, `timm://NAME`, or a name of Detectron2's model zoo.

    Raises:
        CheckpointError: It cannot be had or read.
    """
    if path.startswith("wbcnets://"):
        return read_checkpoint(_shipped(path.removeprefix("wbcnets://")))
    if not path.startswith("timm://"):
        local = path if os.path.exists(path) else _fetch(path)
        return read_checkpoint(Path(local))
    name = path.removeprefix("timm://")
    try:
        return {"model": timm.create_model(name, pretrained=True).state_dict()}
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"MODEL.WEIGHTS={path}: timm could not give these weights ({error}). Without a "
            "network, fetch the file elsewhere and set MODEL.WEIGHTS to its path"
        ) from error


def _shipped(name: str) -> Path:
    """The file of weights that comes with the project under a name."""
    files = {file.stem: file for file in WEIGHTS_FOLDER.glob("*.safetensors")}
    if name not in files:
        raise CheckpointError(f"MODEL.WEIGHTS=wbcnets://{name}: there are {sorted(files)}")
    return files[name]


def _fetch(path: str) -> str:
    if "://" not in path:
        raise CheckpointError(f"MODEL.WEIGHTS={path}: no such file")
    try:
        return PathManager.get_local_path(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"MODEL.WEIGHTS={path}: could not be fetched ({error})") from error
