"""Checkpoints: written whole or not at all, loaded without running code, matched by name.

`MODEL.WEIGHTS` takes this project's and Detectron2's files, Deformable-DETR's in its original and
in transformers' naming (.pth or .safetensors), backbones of timm (`timm://resnet50`), and what
comes with the project (`wbcnets://NAME`, a file of the folder `weights`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from mfds_detr.checkpoint.weight_files import read_weights
from mfds_detr.checkpoint.weight_names import Translation, translate
from wbcnets.errors import CheckpointError, ConfigError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.checkpoints import read_checkpoint, write_checkpoint

# A class head has one row per class: with other classes it has to be learned anew
_HEAD = re.compile(r"^detector\.class_embed\.\d+\.(weight|bias)$")


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that a `kill -9` cannot harm and that refuses to guess.

    Files are written beside their final name, synced and renamed, with their SHA-256 beside them.
    When resuming, damaged files are passed over for the newest one that loads. Loading never runs
    code from a file.

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
        write_checkpoint(path, data)
        self._remove_lone_digests()
        if name != "model_best":  # the best is not the newest, from which to resume
            self.tag_last_checkpoint(path.name)

    def _remove_lone_digests(self) -> None:
        """Those of checkpoints that Detectron2's hook has removed to make room."""
        for sidecar in Path(self.save_dir).glob("model_*.pth.sha256"):
            if not sidecar.with_suffix("").exists():
                sidecar.unlink(missing_ok=True)

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
            except ConfigError:
                raise
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
        names = tuple(checkpoint.get("class_names", ()))
        if names and self.class_names and names != self.class_names:
            heads = self._heads_by_name(translation.state, names)
            translation = translation._replace(state=translation.state | heads)
        report = fit_weights(self.model, translation, path, self.partial)
        for line in report:
            self.logger.info(line)
        return checkpoint

    def _heads_by_name(self, state: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """The class heads of a file with its classes `names`, in the model's order of classes.

        Where the classes are other ones, the heads keep no row, and so do not fit. The first
        stage's head is left alone: its first row stands for any object.
        """
        detector = self.model.detector
        first_stage = f"class_embed.{len(detector.class_embed) - 1}."
        heads = {
            name: tensor
            for name, tensor in state.items()
            if _HEAD.match(name) and not (detector.transformer.two_stage and first_stage in name)
        }
        if set(names) != set(self.class_names):
            return {name: tensor[:0] for name, tensor in heads.items()}
        order = [names.index(name) for name in self.class_names]
        return {name: tensor[order] for name, tensor in heads.items()}

    def newest(self) -> str:
        """The newest checkpoint of the output folder, or nothing."""
        return str(next(iter(self._newest_first()), ""))


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
        Lines that tell what was loaded, re-initialized and left.

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
    lines += [f"Re-initialized, the classes differ: {name}" for name in heads]
    absent = sorted(
        {
            name.split(".")[0]
            for name in own
            if name.startswith(translation.absent or ("\0",)) and name not in usable
        }
    )
    lines += [f"Keeps its initialization, such a file has none: {part}" for part in absent]
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
