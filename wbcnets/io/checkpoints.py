"""Reads and writes checkpoint files; no code from a file is ever run.

The formats are PyTorch archives, safetensors, and the pickled NumPy arrays of Detectron2's model
zoo. A changed byte is always found: archives hold a CRC-32 of every record, and safetensors files
have their SHA-256 beside them (see ``wbcnets.io.atomic_files``).
"""

import argparse
import io
import json
import os
import pickle
import reprlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import nn

from wbcnets.errors import CheckpointError
from wbcnets.io.atomic_files import (
    DigestError,
    verify_digest,
    write_atomically,
    write_with_digest,
)

# The command line that some training tools keep beside the weights is data
torch.serialization.add_safe_globals([argparse.Namespace])

# The attribute of a folder in a zip
_FOLDER = 0x10
# The keys of weights, the averaged ones first
_AVERAGED = ("state_dict_ema", "model_ema")
_PLAIN = ("model", "state_dict")
# The keys that ``write_weights`` may put into the header of a safetensors file, as JSON
_DESCRIPTION = ("class_names", "architecture", "data_config", "calibration", "config")


def read_state_dict(path: Path, averaged: bool = True) -> dict[str, torch.Tensor]:
    """Returns the weights of a file by name, without the prefixes of DDP and torch.compile.

    Args:
        path: The file.
        averaged: Whether to take the exponential moving average if there is one, as timm does.

    Raises:
        CheckpointError: if the file is damaged or is not a checkpoint.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint["model"]
    for name in _AVERAGED if averaged else ():
        if isinstance(checkpoint.get(name), dict):
            state = take_weights(path, checkpoint[name])
            break
    return clean_state_dict(state)


def load_into(model: nn.Module, path: Path, name: str = "the model") -> None:
    """Loads all weights of a model from a file, the averaged ones if there are any.

    Args:
        model: The model.
        path: The file.
        name: Name of the model in messages.

    Raises:
        CheckpointError: if the file is damaged, lacks weights, has others or other shapes, or
            values that are not finite; the model is left as it was.
    """
    state = read_state_dict(path)
    problems = find_misfits(model.state_dict(), state)
    problems += [f"not finite: {name}" for name in find_non_finite(state)]
    if problems:
        raise CheckpointError(describe_misfit(path, name, problems))
    model.load_state_dict(state)


def find_misfits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns a line for each tensor by which a checkpoint differs from a model in name or shape.

    Args:
        own: The model's state dict.
        state: The checkpoint's.
    """
    return [
        *(f"not in the file: {name}" for name in own if name not in state),
        *(f"not in the model: {name}" for name in state if name not in own),
        *(
            f"{name}: {tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
            for name, tensor in state.items()
            if name in own and tensor.shape != own[name].shape
        ),
    ]


def describe_misfit(source: str | Path, model: str, problems: Sequence[str]) -> str:
    """Returns the message for a checkpoint that does not fit a model.

    Args:
        source: Names the checkpoint.
        model: Names the model.
        problems: A line for each tensor.
    """
    shown = "\n  ".join(problems[:20])
    more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
    return f"{source}: does not fit {model}, in {len(problems)} tensors:\n  {shown}{more}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a checkpoint file as a dictionary with the weights under "model".

    Files of ``wbcnets.train`` describe the architecture under "model"; here that is under
    "architecture".

    Raises:
        CheckpointError: if the file is damaged or is not a checkpoint.
    """
    if not os.path.isfile(path):  # a pipe or a device would be read without end
        reason = "is not a file" if os.path.exists(path) else "no such file"
        raise CheckpointError(f"{path}: {reason}; correct the path")
    try:
        if path.suffix == ".safetensors":
            verify_digest(path)
            return _read_safetensors(path)
        if path.suffix == ".pkl":
            data = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        else:
            _verify_checksums(path)
            data = torch.load(path, map_location="cpu", weights_only=True)
    # Pickles and archives raise whatever the damaged bytes lead them to; each means "unreadable"
    except Exception as error:
        raise CheckpointError(f"{path}: {_describe_damage(path, error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, not a dictionary of weights")
    # A training run's file describes its model under "model" and has the weights beside it
    plain = _PLAIN if _holds_tensors(data.get("model")) else _PLAIN[::-1]
    stored: Any = next((data[name] for name in plain if name in data), data)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: holds no weights, but a {type(stored).__name__}")
    state = take_weights(path, stored)
    extra = {} if stored is data else {k: v for k, v in data.items() if v is not stored}
    if "model" in extra:
        extra["architecture"] = extra.pop("model")
    return {**extra, "model": state}


def take_weights(path: Path, stored: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Returns the arrays of a dictionary as tensors.

    Raises:
        CheckpointError: if there are none, one has no text as its name, or one is of a kind that
            no model is trained with: sparse, quantized, complex or without values.
    """
    state = {}
    for name, value in stored.items():
        if not hasattr(value, "shape"):
            continue
        tensor = torch.as_tensor(value)
        plain = tensor.layout == torch.strided and not (
            tensor.is_quantized or tensor.is_complex() or tensor.is_meta
        )
        if not isinstance(name, str) or not plain:
            raise CheckpointError(
                f"{path}: {name!r} is a {tensor.layout} tensor of {tensor.dtype} on "
                f"{tensor.device}, expected plain weights by name; save the model's state_dict"
            )
        state[name] = tensor
    if not state:
        raise CheckpointError(f"{path}: holds no weights")
    return state


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(hasattr(item, "shape") for item in value.values())


def check_class_names(names: Any) -> tuple[str, ...]:
    """Returns the class names that a file holds, in the order of the model's outputs.

    Raises:
        ValueError: if they are not a list of distinct, printable strings.
    """
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"class_names={reprlib.repr(names)} should be a list of names")
    wrong = [name for name in names if not (isinstance(name, str) and name.strip())]
    wrong += [name for name in names if isinstance(name, str) and not name.isprintable()]
    if wrong:
        raise ValueError(f"class_names: {wrong[0]!r} should be a name of printable characters")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"class_names: {repeated[0]!r} is listed more than once")
    return tuple(names)


def write_checkpoint(path: Path, data: Mapping[str, Any]) -> None:
    """Writes tensors and plain values with ``torch.save``, whole or not at all.

    Args:
        path: The file.
        data: Strings, numbers, tensors and containers of them, which load without running code.

    Raises:
        CheckpointError: if the file cannot be written, or a tensor holds values that are not
            finite; the old file is untouched.
    """
    broken = list(find_non_finite(data))
    if broken:
        raise CheckpointError(
            f"{path}: not written, since values are not finite in {', '.join(broken[:5])}"
            f"{', ...' if len(broken) > 5 else ''}; the previous file, if any, is untouched. "
            "Resume from it with a lower learning rate"
        )
    write_atomically(path, lambda file: torch.save(dict(data), file))


def write_weights(
    path: Path,
    state: Mapping[str, torch.Tensor],
    class_names: Sequence[str],
    dtype: torch.dtype = torch.float16,
    **description: Any,
) -> None:
    """Writes weights as safetensors, described in the header, with the SHA-256 beside it.

    ``read_checkpoint`` returns the class names and the description beside the weights.

    Args:
        path: The file; its folder is created.
        state: Weights by name.
        class_names: In the order of the outputs.
        dtype: The type of the floating-point weights in the file.
        description: Plain values: ``architecture``, ``data_config`` and ``calibration`` of a
            classifier, the first two as in the checkpoints of its training, or the ``config`` of a
            detector, a YAML text.

    Raises:
        CheckpointError: if a weight overflows, or the file cannot be written.
    """
    # Copies, since safetensors refuses tensors that share memory
    converted = {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in state.items()
    }
    overflown = list(find_non_finite(converted))
    if overflown:
        raise CheckpointError(
            f"{path}: not written, since {', '.join(overflown[:5])} overflow in {dtype}; use "
            "float32",
            setting="dtype",
        )
    content = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in converted.items()},
        metadata={
            key: json.dumps(value, allow_nan=False)
            for key, value in {"class_names": list(class_names), **description}.items()
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_digest(path, content)


def find_non_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yields the names of tensors in nested containers that hold NaN or infinite values."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and not value.isfinite().all():
            yield name
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from find_non_finite(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from find_non_finite(item, f"{name}[{index}]")


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    state = safetensors.torch.load_file(path)
    described = {key: json.loads(metadata[key]) for key in _DESCRIPTION if key in metadata}
    return {"class_names": (), **described, "model": state}


def _verify_checksums(path: Path) -> None:
    """Compares an archive with the checksums in it, which PyTorch writes but does not read.

    No SHA-256 beside the archive is needed: with any one byte changed, the archive is refused or
    reads the same (tests/io/test_atomic_files.py). The checksums alone would miss one kind of
    damage: a record marked as a folder, which PyTorch then leaves unread and uninitialized.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip() or next(
            (info.filename for info in archive.infolist() if info.external_attr & _FOLDER), None
        )
    if broken:
        raise ValueError(f"damaged record {broken}")


def _describe_damage(path: Path, error: Exception) -> str:
    head = path.read_bytes()[:200]
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page, not a checkpoint; download it again"
    if isinstance(error, DigestError):
        return (
            f"damaged: {error}. Copy both files again, or remove the .sha256 if you trust this one"
        )
    return f"damaged, cut off, or holds more than weights ({type(error).__name__})"


# NumPy 2 renamed the package that pickled arrays name; files of both are read with both
_NUMPY_CORE = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled NumPy arrays and containers, as in Detectron2's model zoo, and nothing else."""

    _ALLOWED = {
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Looks up an allowed name; anything else is refused."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        module = module.replace("numpy._core", "numpy.core").replace("numpy.core", _NUMPY_CORE)
        return super().find_class(module, name)
