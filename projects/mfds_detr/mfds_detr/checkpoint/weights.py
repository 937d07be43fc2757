"""Weights of a detector: found by path or name, fitted to a model, exported to a small file.

``read_weights`` takes this project's and Detectron2's files, Deformable-DETR's in the names of its
own code and of transformers (.pth or .safetensors), backbones of timm (``timm://resnet50``) and the
weights that come with the project (``wbcnets://mfds_detr_tiny_bccd``, or the name alone).
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import nn

from mfds_detr.checkpoint.weight_names import State, Translation
from mfds_detr.config import parse_config, read_config
from mfds_detr.project_files import project_files
from wbcnets.errors import CheckpointError, ConfigError
from wbcnets.io.atomic_files import digest_path
from wbcnets.io.checkpoints import (
    check_class_names,
    describe_misfit,
    find_misfits,
    find_non_finite,
    read_checkpoint,
    take_weights,
    write_weights,
)
from wbcnets.io.outputs import claim_file

# These have one row per class, so weights for other classes leave them as they are
CLASS_HEAD = re.compile(r"^detector\.(class_embed\.\d+\.(weight|bias)|label_embed\.weight)$")
_HINT = (
    "\nMake the config agree (for example NUM_QUERIES, HIDDEN_DIM, BOX_REFINEMENT or TWO_STAGE in "
    "MODEL.MFDS_DETR), or set MODEL.WEIGHTS_PARTIAL True to load what fits"
)


class Weights(NamedTuple):
    """The weights of a checkpoint."""

    source: str  # for messages
    path: Path | None  # None if they come from timm
    state: State  # the moving average if the checkpoint has one
    class_names: tuple[str, ...]  # in the order of the labels; empty if unknown
    config: str = ""  # YAML, in exported files


def read_weights(source: str | os.PathLike[str]) -> Weights:
    """Returns the weights of a path, ``wbcnets://NAME``, a shipped name, ``timm://NAME`` or a URL.

    Raises:
        CheckpointError: if they cannot be found, downloaded or read.
    """
    text = os.fspath(source)
    if text.startswith("timm://"):
        return Weights(text, None, _timm_state(text.removeprefix("timm://")), ())
    path = _find_file(text)
    checkpoint = read_checkpoint(path)
    averaged, config = checkpoint.get("ema"), checkpoint.get("config")
    state = checkpoint["model"]
    if isinstance(averaged, dict) and averaged:
        state = take_weights(path, averaged)
    try:
        names = check_class_names(checkpoint.get("class_names", ()))
    except ValueError as error:
        raise CheckpointError(f"{text}: {error}") from error
    return Weights(text, path, state, names, config if isinstance(config, str) else "")


def _find_file(text: str) -> Path:
    shipped = project_files("weights")
    name = text.removeprefix("wbcnets://")
    if name in shipped and not os.path.isfile(text):
        return shipped[name]
    if text.startswith("wbcnets://"):
        raise CheckpointError(f"{text}: unknown name; choose from {sorted(shipped)}")
    if "://" not in text:
        if not os.path.isfile(text):
            raise CheckpointError(
                f"{text or 'an empty name'}: no such file, and none of the shipped weights "
                f"{sorted(shipped)}",
                setting="weights",
            )
        return Path(text)
    try:
        return Path(PathManager.get_local_path(text))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{text}: could not be downloaded ({error})") from error


def _timm_state(name: str) -> State:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"timm://{name}: timm could not load these weights ({error}). Without network access, "
            "download the file elsewhere and give its path"
        ) from error


def read_config_of(
    weights: Weights,
    config_file: str | os.PathLike[str] | None = None,
    overrides: Sequence[Any] = (),
) -> CfgNode:
    """Returns the config of trained weights.

    Args:
        weights: The weights.
        config_file: By default the config in the weights, or else ``NAME.yaml`` or ``config.yaml``
            beside them.
        overrides: See ``read_config``.

    Raises:
        ConfigError: if the config is missing, or a key or a value is unknown.
    """
    if weights.config and not config_file:
        return parse_config(weights.config, f"{weights.source}: config", overrides)
    path = config_file or _config_beside(weights.path or Path(weights.source))
    if not config_file and not Path(path).is_file():
        raise ConfigError(
            f"{path}: no such file; the config of the training is expected beside the weights",
            setting="config_file",
        )
    return read_config(path, overrides)


def _config_beside(weights: Path) -> Path:
    own = weights.with_suffix(".yaml")
    return own if own.is_file() else weights.with_name("config.yaml")


def fit_weights(
    model: nn.Module, translation: Translation, source: str, partial: bool = False
) -> list[str]:
    """Copies a translated checkpoint into a model.

    Args:
        model: An ``MFDSDETR``.
        translation: The checkpoint in the model's names.
        source: Names the checkpoint in messages.
        partial: Whether tensors that do not fit are reported instead of refused.

    Returns:
        Lines that say which tensors were loaded, re-initialized and left out.

    Raises:
        CheckpointError: if a tensor is missing, left over, of another shape or not finite; the
            model is left as it was.
    """
    own, absent = model.state_dict(), translation.absent
    given = {n: t for n, t in translation.state.items() if n in own or not n.startswith(absent)}
    heads = [
        name
        for name, tensor in given.items()
        if CLASS_HEAD.match(name) and name in own and tensor.shape != own[name].shape
    ]
    given = {name: tensor for name, tensor in given.items() if name not in heads}
    usable = {n: t for n, t in given.items() if n in own and t.shape == own[n].shape}
    optional = _optional_names(own, usable, (*absent, *heads))
    problems = find_misfits({n: t for n, t in own.items() if n not in optional}, given)
    non_finite = [f"not finite: {name}" for name in find_non_finite(usable)]
    if non_finite or not usable or (problems and not partial):
        model_name = f"the model ({translation.source} names)"
        raise CheckpointError(describe_misfit(source, model_name, problems + non_finite) + _HINT)
    model.load_state_dict(usable, strict=False)
    kept = {n.split(".")[0] for n in own if n.startswith(absent) and n not in usable}
    return [
        f"Loaded {len(usable)} of {len(own)} tensors from {source} ({translation.source} names)",
        *(f"Re-initialized, the classes differ: {name}" for name in heads),
        *(f"Keeps its initialization, such files do not hold it: {part}" for part in sorted(kept)),
        *(f"Left out as asked: {problem}" for problem in problems),
    ]


def _optional_names(own: State, usable: State, prefixes: Sequence[str]) -> set[str]:
    """Returns the model's tensors that a file may lack."""
    # A head that all layers share has one name per layer
    filled = {own[name].data_ptr() for name in usable}
    return {
        name
        for name, tensor in own.items()
        if name not in usable
        and (
            (tensor.numel() and tensor.data_ptr() in filled)
            or name.startswith(tuple(prefixes))
            or name.endswith("num_batches_tracked")
        )
    }


def export_weights(
    weights: str | os.PathLike[str],
    output: Path,
    dtype: torch.dtype = torch.float16,
    config_of: Callable[[Weights], CfgNode] = read_config_of,
) -> int:
    """Writes the weights of a checkpoint as safetensors, with classes and config in the file.

    Args:
        weights: A checkpoint, see ``read_weights``.
        output: The ``.safetensors`` file.
        dtype: Type of the floating-point tensors.
        config_of: Returns the config that goes into the file.

    Returns:
        The size of the file in bytes.

    Raises:
        ConfigError: if a file of that name exists, or the config is missing or wrong.
        CheckpointError: if the checkpoint cannot be read, names no classes, or holds values too
            large for ``dtype``.
    """
    with claim_file(output), claim_file(digest_path(output)):
        read = read_weights(weights)
        if not read.class_names:
            raise CheckpointError(
                f"{read.source}: names no classes; use a checkpoint of a training"
            )
        cfg = config_of(read).clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""  # paths of the training's machine
        write_weights(output, read.state, read.class_names, dtype, config=cfg.dump())
    return output.stat().st_size
