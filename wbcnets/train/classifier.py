"""A trained classifier from a run's checkpoint, a registered name, or a saved folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import nn

from wbcnets.checkpoints import read_checkpoint, read_state_dict
from wbcnets.data.cell_augmentation import CellAugmentation, create_cell_augmentation
from wbcnets.errors import CheckpointError


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
    if Path(source).is_dir():
        source = f"local-dir:{source}"
    try:
        model = timm.create_model(source, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{source}: no such checkpoint, and timm cannot make a model of that name ({error})"
        ) from error
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if not names:
        raise CheckpointError(
            f"{source}: its configuration has no label_names, so that its logits have no meaning; "
            "train it on cells first: python tools/train_classifier.py"
        )
    return _classifier(source, model, names, resolve_model_data_config(model), "none")


def _from_checkpoint(path: Path) -> Classifier:
    checkpoint = read_checkpoint(path)
    architecture, class_names = checkpoint.get("architecture"), checkpoint.get("class_names")
    if not isinstance(architecture, dict) or not class_names:
        raise CheckpointError(
            f"{path}: holds weights, but does not say of which model and classes; use a checkpoint "
            "that tools/train_classifier.py wrote"
        )
    model = timm.create_model(
        architecture["name"],
        num_classes=len(class_names),
        pretrained=False,
        **architecture.get("kwargs", {}),
    )
    try:
        model.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {architecture['name']}: {error}") from error
    data_config = checkpoint.get("data_config", {})
    preset = data_config.get("val_augmentation", "none")
    return _classifier(str(path), model, class_names, data_config, preset)


def _classifier(
    name: str, model: nn.Module, class_names: Any, data: Mapping[str, Any], preset: str
) -> Classifier:
    return Classifier(
        name=name,
        model=model.eval(),
        class_names=tuple(str(label) for label in class_names),
        image_size=int(data["input_size"][-1]),
        mean=tuple(float(value) for value in data["mean"]),
        std=tuple(float(value) for value in data["std"]),
        preset=preset,
    )
