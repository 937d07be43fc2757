"""Checkpoints: written whole or not at all, loaded without running code, matched by name.

`MODEL.WEIGHTS` takes this project's and Detectron2's files, Deformable-DETR's in its original and
in transformers' naming (.pth or .safetensors), backbones of timm (`timm://resnet50`), and what
comes with the project (`wbcnets://NAME`, a file of the folder `weights`).
"""

import argparse
import io
import json
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from mfds_detr.weight_names import Translation, translate
from wbcnets.errors import CheckpointError

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights"

# The original Deformable-DETR files carry their command line, which is data
torch.serialization.add_safe_globals([argparse.Namespace])

# A class head has one row per class: with other classes it has to be learned anew
_HEAD = re.compile(r"^detector\.class_embed\.\d+\.(weight|bias)$")


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that a `kill -9` cannot harm and that refuses to guess.

    Files are written beside their final name, synced and renamed. When resuming, damaged files
    are passed over for the newest one that loads. Loading never runs code from a file.

    Args:
        model: The model, wrapped for several processes or not.
        save_dir: The output folder.
        class_names: The classes in the model's order, stored in every checkpoint.
        partial: Whether weights that do not fit are reported instead of refused.
        checkpointables: Objects with `state_dict`, as in Detectron2.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        class_names: Sequence[str] = (),
        partial: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.class_names = tuple(class_names)
        self.partial = partial

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `NAME.pth` whole or not at all, then points `last_checkpoint` at it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict(), "class_names": self.class_names}
        data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data |= kwargs
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        write_atomically(path, lambda file: torch.save(data, file))
        if name != "model_best":  # the best is not the newest, from which to resume
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points `last_checkpoint` at a file of the output folder."""
        pointer = Path(self.save_dir) / "last_checkpoint"
        write_atomically(pointer, lambda file: file.write(last_filename_basename.encode()))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The newest checkpoint of the output folder that loads, else weights from `path`.

        Returns:
            When resuming, what the checkpoint holds besides, its `iteration` for one; else nothing,
            since a training that starts from another's weights starts at zero.

        Raises:
            CheckpointError: There are checkpoints in the folder, and none of them loads.
        """
        if self.save_dir and self.save_to_disk:
            self._remove_leftovers()
        candidates = self._newest_first() if resume else []
        if not candidates:
            self.load(path, checkpointables=[])
            return {}
        problems = []
        for candidate in candidates:
            try:
                return self._resume(candidate)
            except CheckpointError as error:
                problems.append(str(error))
                self.logger.warning(f"{error}; trying the one before")
        raise CheckpointError("no checkpoint can be resumed:\n  " + "\n  ".join(problems))

    def _newest_first(self) -> list[Path]:
        folder = Path(self.save_dir)
        files = [p for p in folder.glob("model_*.pth") if p.name != "model_best.pth"]
        return sorted(files, key=lambda p: p.stat().st_mtime_ns, reverse=True)

    def _remove_leftovers(self) -> None:
        """Half-written files of a process that was killed while it saved."""
        for leftover in Path(self.save_dir).glob(".model_*.pth.*"):
            leftover.unlink(missing_ok=True)

    def _resume(self, path: Path) -> dict[str, Any]:
        checkpoint = read_checkpoint(path)
        self.logger.info(f"Resuming from {path}")
        missing = [key for key in self.checkpointables if key not in checkpoint]
        if missing or "iteration" not in checkpoint:
            raise CheckpointError(f"{path}: holds no {', '.join(missing) or 'iteration'}")
        fit_weights(self.model, Translation("MFDS-DETR", checkpoint.pop("model"), ()), str(path))
        for key, obj in self.checkpointables.items():
            try:
                obj.load_state_dict(checkpoint.pop(key))
            except (ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path}: its {key} does not fit this config ({error}); resume with the config "
                    "that it was made with, or start anew from it with MODEL.WEIGHTS"
                ) from error
        return checkpoint

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads weights only, translating foreign names; EMA weights are preferred.

        Args:
            path: A file, a `timm://` name, or empty for none.
            checkpointables: Accepted for Detectron2's sake; use `resume_or_load` to resume.

        Raises:
            CheckpointError: The file is missing, damaged, or does not fit the model.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: training starts from random weights")
            return {}
        checkpoint = read_weights(path)
        state = checkpoint.pop("ema", None) or checkpoint.pop("model")
        translation = translate(state, self.model.backbone.state_dict())
        report = fit_weights(self.model, translation, path, self.partial)
        for line in report:
            self.logger.info(line)
        return checkpoint


def fit_weights(
    model: nn.Module, translation: Translation, path: str, partial: bool = False
) -> list[str]:
    """Copies a translated checkpoint into a model.

    Args:
        model: An `MFDSDETR`.
        translation: The checkpoint in the model's names.
        path: Where it came from, for messages.
        partial: Whether what does not fit is reported instead of refused.

    Returns:
        Lines that tell what was loaded, re-initialised and left.

    Raises:
        CheckpointError: A parameter is missing, left over or of another shape.
    """
    own = model.state_dict()
    given = translation.state
    shape_changed = [k for k in given if k in own and given[k].shape != own[k].shape]
    heads = [name for name in shape_changed if _HEAD.match(name)]
    wrong = [
        f"{k}: {tuple(given[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in shape_changed
        if not _HEAD.match(k)
    ]
    left = [k for k in given if k not in own and not k.startswith(translation.absent or ("\0",))]
    usable = {k: t for k, t in given.items() if k in own and k not in shape_changed}
    missing = _missing(own, usable, (*translation.absent, *heads))
    problems = (
        [f"other shape: {line}" for line in wrong]
        + [f"not in the model: {name}" for name in left]
        + [f"not in the file: {name}" for name in missing]
    )
    if not usable or (problems and not partial):
        raise CheckpointError(_misfit(path, translation.source, problems))
    bad = [name for name, t in usable.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: holds values that are not finite, in {', '.join(bad[:5])}")
    model.load_state_dict(usable, strict=False)
    lines = [f"Loaded {len(usable)} of {len(own)} tensors from {path} ({translation.source} names)"]
    lines += [f"Re-initialised, the classes differ: {name}" for name in heads]
    absent = sorted(
        {
            name.split(".")[0]
            for name in own
            if name.startswith(translation.absent or ("\0",)) and name not in usable
        }
    )
    lines += [f"Keeps its initialisation, such a file has none: {part}" for part in absent]
    return lines + [f"Left out as asked: {problem}" for problem in problems]


def _missing(
    own: dict[str, Tensor], usable: dict[str, Tensor], excused: Sequence[str]
) -> list[str]:
    """Tensors that no name of the file fills; heads shared by all layers have several names."""
    filled = {own[name].data_ptr() for name in usable}
    return [
        name
        for name, tensor in own.items()
        if name not in usable
        and not (tensor.numel() and tensor.data_ptr() in filled)
        and not name.startswith(tuple(excused) or ("\0",))
        and not name.endswith("num_batches_tracked")
    ]


def _misfit(path: str, source: str, problems: Sequence[str]) -> str:
    shown = "\n  ".join(problems[:20])
    more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
    return (
        f"{path}: {len(problems)} tensors do not fit the model ({source} names):\n  {shown}{more}\n"
        "Make the config agree (for example NUM_QUERIES, HIDDEN_DIM, BOX_REFINEMENT or TWO_STAGE "
        "of MODEL.MFDS_DETR), or set MODEL.WEIGHTS_PARTIAL True to load what fits"
    )


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file as a dictionary with the weights under "model"; runs no code from it.

    Raises:
        CheckpointError: The file is damaged, or is not a checkpoint.
    """
    try:
        if path.suffix == ".safetensors":
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
    stored: Any = data.get("model", data.get("state_dict", data))
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: holds no weights, but a {type(stored).__name__}")
    state = {
        name: torch.as_tensor(value) for name, value in stored.items() if hasattr(value, "shape")
    }
    if not state:
        raise CheckpointError(f"{path}: holds no weights")
    extra = {} if stored is data else {k: v for k, v in data.items() if v is not stored}
    return {**extra, "model": state}


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    state = safetensors.torch.load_file(path)
    names = tuple(json.loads(metadata.get("class_names", "[]")))
    return {"model": state, "class_names": names}


def _verify_checksums(path: Path) -> None:
    """Compares the archive with the checksums in it, which PyTorch writes but does not read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            raise ValueError(f"wrong checksum of {broken}")


def _describe_damage(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file"
    head = path.read_bytes()[:200]
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page, not a checkpoint; download it again"
    return f"damaged, cut off, or holds more than weights ({type(error).__name__})"


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
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Writes a file so that at any instant either the old or the new one stands whole.

    Args:
        path: The final name.
        write: Gets a binary file opened for writing.

    Raises:
        CheckpointError: The file could not be written; the old one is untouched.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that nobody else may read
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); the previous file, if any, is untouched. "
            "Free some space, or choose another output folder"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
