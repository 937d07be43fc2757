"""A trained classifier from a run's checkpoint, a registered name, or a saved folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import nn

from wbcnets.data.cells.augmentation import CellAugmentation, create_cell_augmentation
from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import load_into, read_checkpoint
from wbcnets.version import __version__

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".pkl")
_NO_NAMES = (
    "{}: its configuration has no label_names, so that its outputs have no meaning; train it on "
    "cells first: python tools/train_classifier.py"
)


@dataclass(frozen=True)
class Classifier:
    """A model with what it needs to be used.

    Attributes:
        name: Where it came from.
        model: In evaluation mode.
        class_names: In the order of the logits.
        image_size: Side of the square images that it takes, in px.
        mean: Of the channels, in [0, 1].
        std: Of the channels, in [0, 1].
        preset: How images are brought to their size, a preset without chance.
    """

    name: str
    model: nn.Module
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preset: str = "none"

    def preprocessing(self) -> CellAugmentation:
        """From an image to the size that the model takes."""
        return create_cell_augmentation(self.preset, self.image_size)


def load_classifier(source: str) -> Classifier:
    """Loads a classifier for use.

    Args:
        source: A checkpoint of `tools/train_classifier.py`, a name such as "sckansformer_tiny.pbc"
            whose configuration has class names, or "local-dir:FOLDER" or "hf-hub:NAME".

    Raises:
        CheckpointError: It cannot be loaded, or does not say which classes it knows.
    """
    if Path(source).is_file():
        return _from_checkpoint(Path(source))
    if Path(source).suffix in CHECKPOINT_SUFFIXES:
        raise CheckpointError(f"{source}: no such file; correct the path of the checkpoint")
    if Path(source).is_dir():
        source = f"local-dir:{source}"
    # Asked before the weights are fetched: those of ImageNet would be of no use
    registered = timm.get_pretrained_cfg(source) if timm.is_model(source) else None
    if registered is not None and not registered.label_names:
        raise CheckpointError(_NO_NAMES.format(source))
    try:
        model = timm.create_model(source, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{source}: no such checkpoint, and timm cannot make a model of that name ({error})"
        ) from error
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if not names:
        raise CheckpointError(_NO_NAMES.format(source))
    return _classifier(source, model, names, resolve_model_data_config(model))


def _from_checkpoint(path: Path) -> Classifier:
    checkpoint = read_checkpoint(path)
    architecture, class_names = checkpoint.get("architecture"), checkpoint.get("class_names")
    if not isinstance(architecture, dict) or not class_names:
        raise CheckpointError(
            f"{path}: holds weights, but does not say of which model and classes; use a "
            "checkpoint that tools/train_classifier.py wrote"
        )
    name = architecture.get("name", "")
    if not timm.is_model(name):
        raise CheckpointError(
            f"{path}: is of a model {name!r}, which neither timm {timm.__version__} nor wbcnets "
            f"{__version__} has; update them"
        )
    try:
        model = timm.create_model(
            name, num_classes=len(class_names), pretrained=False, **architecture.get("kwargs", {})
        )
        load_into(model, path, f"{name} of {len(class_names)} classes")
    except CheckpointError:
        raise
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit {name}: {error}") from error
    return _classifier(str(path), model, class_names, checkpoint.get("data_config", {}))


def _classifier(
    name: str, model: nn.Module, class_names: Any, data_config: Mapping[str, Any]
) -> Classifier:
    missing = [key for key in ("input_size", "mean", "std") if key not in data_config]
    if missing:
        raise CheckpointError(f"{name}: its data configuration has no {', '.join(missing)}")
    outputs = getattr(model, "num_classes", len(class_names))
    if outputs != len(class_names):
        raise CheckpointError(f"{name}: has {outputs} outputs, but {len(class_names)} class names")
    return Classifier(
        name=name,
        model=model.eval(),
        class_names=tuple(str(label) for label in class_names),
        image_size=int(data_config["input_size"][-1]),
        mean=tuple(float(value) for value in data_config["mean"]),
        std=tuple(float(value) for value in data_config["std"]),
        preset=str(data_config.get("augmentation", "none")),
    )
