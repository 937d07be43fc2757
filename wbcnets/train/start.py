"""Trained weights to start from: the settings that fit them, and the classes that they know."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from wbcnets.errors import CheckpointError
from wbcnets.evaluation.metadata import ClassifierMetadata, read_folder, read_run_metadata
from wbcnets.io.checkpoints import read_checkpoint, read_state_dict
from wbcnets.train.config_file import text_override


def start_settings(source: str) -> list[str]:
    """Returns ``KEY=VALUE`` for a run that starts from a classifier: its model and its images.

    Args:
        source: A shipped name such as "resnext_cc_26.pbc", a checkpoint of a run, or a folder or
            file that ``export_classifier`` wrote.

    Raises:
        CheckpointError: if there is no such classifier, or it cannot be read.
    """
    metadata, weights = _find(source)
    images = metadata.data_config
    values = {
        "model.kwargs": metadata.architecture.kwargs,
        "model.pretrained": False,
        "data.img_size": images.input_size[-1],
        "data.mean": list(images.mean),
        "data.std": list(images.std),
    }
    return [
        text_override("model.name", metadata.architecture.name),
        text_override("model.weights", weights),
        text_override("data.val_augmentation", images.augmentation),
        *(f"{key}={json.dumps(value)}" for key, value in values.items()),
    ]


def take_known_classes(model: nn.Module, weights: Path, class_names: Sequence[str]) -> list[str]:
    """Copies the classifier's outputs of classes that the weights were trained on.

    Args:
        model: A classifier with other classes, or in another order.
        weights: A file that names its classes; another one changes nothing.
        class_names: In the order of the model's outputs.

    Returns:
        The names of the copied classes.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    known = list(read_checkpoint(weights).get("class_names") or ())
    head: Any = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if not known or not isinstance(head, nn.Linear):
        return []
    prefix = next(name for name, module in model.named_modules() if module is head)
    state = read_state_dict(weights)
    shared = [name for name in class_names if name in known]
    for kind, own in head.named_parameters():
        stored = state.get(f"{prefix}.{kind}")
        if stored is None or stored.shape != (len(known), *own.shape[1:]):
            return []
        with torch.no_grad():
            for name in shared:
                own[list(class_names).index(name)] = stored[known.index(name)].to(own)
    return shared


def _find(source: str) -> tuple[ClassifierMetadata, Path]:
    """Returns the description and the weight file of a classifier."""
    if os.path.isdir(source):
        return read_folder(Path(source))
    if os.path.isfile(source):
        return read_run_metadata(Path(source)), Path(source)
    registered = timm.get_pretrained_cfg(source) if timm.is_model(source) else None
    if registered is None or not registered.file:
        raise CheckpointError(
            f"{source}: neither a file, a folder nor weights of the package; name a run's best.pth",
            setting="start",
        )
    return read_run_metadata(Path(registered.file)), Path(registered.file)
