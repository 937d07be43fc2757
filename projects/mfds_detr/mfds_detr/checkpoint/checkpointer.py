"""Detectron2's checkpointer with atomic files and strict loading."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from mfds_detr.checkpoint.weight_names import State, Translation, translate
from mfds_detr.checkpoint.weights import CLASS_HEAD, fit_weights, read_weights
from wbcnets.engine.resume import read_newest
from wbcnets.errors import CheckpointError, ConfigError
from wbcnets.io.atomic_files import write_text
from wbcnets.io.checkpoints import read_checkpoint, write_checkpoint

_POINTER_BYTES = 4096


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that survives ``kill -9`` and never guesses.

    Each file is written under a temporary name, synced and renamed. A resumed run skips damaged
    files. Loading never runs code from a file.

    Args:
        model: The model, wrapped for several processes or not.
        save_dir: The output folder.
        class_names: The classes in the order of the labels, stored in every checkpoint.
        partial: Whether weights that do not fit are reported instead of refused.
        checkpointables: Objects with ``state_dict``, as in Detectron2.
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
        """Writes ``NAME.pth`` whole or not at all, then points ``last_checkpoint`` at it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict(), "class_names": self.class_names}
        data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data |= kwargs
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        write_checkpoint(path, data)
        if name != "model_best":  # the best is not the newest, from which a run resumes
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points ``last_checkpoint`` at a file in the output folder."""
        pointer = Path(self.save_dir) / "last_checkpoint"
        write_text(pointer, last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Loads the newest sound checkpoint in the output folder, else the weights of ``path``.

        Returns:
            The other entries of a resumed checkpoint, ``iteration`` among them. Empty if only
            weights were loaded, because such a training starts at iteration 0.

        Raises:
            CheckpointError: if the folder has checkpoints and none of them loads.
        """
        if self.save_dir and self.save_to_disk:
            self._remove_leftovers()
        newest = read_newest(self._newest_first(), self._check_resumable) if resume else None
        if newest is None:
            self.load(path, checkpointables=[])
            return {}
        return self._resume(*newest)

    def _newest_first(self) -> Iterator[Path]:
        """Yields the checkpoint that ``last_checkpoint`` names, then the others by iteration.

        Times of modification say nothing: a copied folder has others.
        """
        folder = Path(self.save_dir)
        named = folder / self._named_last()
        if named.is_file():
            yield named
        iterations = {
            path: _iteration_of(path)
            for path in folder.glob("model_*.pth")
            if path not in (named, folder / "model_best.pth")
        }
        yield from sorted(iterations, key=iterations.__getitem__, reverse=True)

    def _named_last(self) -> str:
        """Returns the name of a file in the output folder, or "." if nothing names one."""
        pointer = Path(self.save_dir) / "last_checkpoint"
        try:
            text = pointer.read_bytes()[:_POINTER_BYTES].decode().strip()
        except (OSError, UnicodeDecodeError):
            return "."
        return text if text == Path(text).name and "\0" not in text else "."

    def _check_resumable(self, path: Path, checkpoint: dict[str, Any]) -> None:
        missing = [key for key in ("iteration", *self.checkpointables) if key not in checkpoint]
        if missing:
            raise CheckpointError(
                f"{path}: holds no {', '.join(missing)}, so that a training cannot go on from it; "
                "start a new one from its weights with MODEL.WEIGHTS"
            )

    def _remove_leftovers(self) -> None:
        """Removes half-written files of a process that was killed while it saved."""
        for leftover in Path(self.save_dir).glob(".model_*.pth.*"):
            leftover.unlink(missing_ok=True)

    def _resume(self, path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
        self.logger.info(f"Resuming from {path}")
        fit_weights(self.model, Translation("MFDS-DETR", checkpoint.pop("model"), ()), str(path))
        for key, obj in self.checkpointables.items():
            try:
                obj.load_state_dict(checkpoint.pop(key))
            except ConfigError:
                raise
            except (ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path}: its {key} does not fit this config ({error}); resume with the config "
                    "that it was trained with, or start a new run from it with MODEL.WEIGHTS"
                ) from error
        return checkpoint

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads weights only, the moving average if there is one, and translates foreign names.

        Args:
            path: See ``read_weights``; empty for none.
            checkpointables: Not used, part of Detectron2's signature; see ``resume_or_load``.

        Returns:
            The ``class_names`` of the weights; empty if ``path`` is.

        Raises:
            CheckpointError: if the weights are missing or damaged, or do not fit the model.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: training starts from random weights")
            return {}
        weights = read_weights(path)
        translation = translate(weights.state, self.model.backbone.state_dict())
        if weights.class_names and self.class_names and weights.class_names != self.class_names:
            heads = self._reorder_heads(translation.state, weights.class_names)
            translation = translation._replace(state=translation.state | heads)
        for line in fit_weights(self.model, translation, path, self.partial):
            self.logger.info(line)
        return {"class_names": weights.class_names}

    def _reorder_heads(self, state: State, names: tuple[str, ...]) -> State:
        """Returns the class heads of a file with the classes ``names``, in the model's order.

        If the classes differ, the heads get no rows and so do not fit. The head of a first stage
        without classes stays as it is, because its first row stands for any object.
        """
        detector = self.model.detector
        first_stage = f"class_embed.{len(detector.class_embed) - 1}."
        is_binary = detector.transformer.two_stage and not detector.class_proposals
        heads = {
            name: tensor
            for name, tensor in state.items()
            if CLASS_HEAD.match(name) and not (is_binary and first_stage in name)
        }
        if set(names) != set(self.class_names):
            return {name: tensor[:0] for name, tensor in heads.items()}
        order = [names.index(name) for name in self.class_names]
        # The label embedding has a further row, that of no class
        return {
            name: torch.cat([tensor[order], tensor[len(names) :]]) for name, tensor in heads.items()
        }

    def newest(self) -> str:
        """Returns the path of the newest checkpoint in the output folder, or ""."""
        return str(next(iter(self._newest_first()), ""))


def _iteration_of(path: Path) -> int:
    """Returns the iteration after which a checkpoint was written.

    A file that cannot be read counts by its name, so that it is tried, and named, in its turn.
    """
    try:
        iteration = read_checkpoint(path).get("iteration", -1)
    except CheckpointError:
        number = path.stem.removeprefix("model_")
        return int(number) if number.isdecimal() else sys.maxsize
    return iteration if isinstance(iteration, int) else -1
