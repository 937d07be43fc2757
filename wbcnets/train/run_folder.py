"""The folder of a run: its files, written so that a crash leaves each of them complete."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wbcnets.data.cells.dataset import CellDataset
from wbcnets.engine.non_finite import save_bad_step
from wbcnets.engine.resume import find_changes, flatten_settings, read_newest
from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.metrics import ClassifierMetrics
from wbcnets.io.atomic_files import keep_copy, write_atomically, write_text
from wbcnets.io.checkpoints import write_checkpoint
from wbcnets.io.drawing import contact_sheet
from wbcnets.io.outputs import check_folder, check_unlocked, write_readme
from wbcnets.io.tables import write_csv
from wbcnets.train.config import TrainConfig
from wbcnets.train.config_file import dump_config, load_config, text_override
from wbcnets.train.data import CellSplits
from wbcnets.train.model import model_kwargs
from wbcnets.train.state import TrainingState

logger = logging.getLogger(__name__)

COMMAND = "train cells"
CONFIG_NAME = "config.yaml"
BEST_NAME = "best.pth"
LAST_NAME = "last.pth"
PREVIOUS_NAME = "previous.pth"
# A resumed run may change these: they change nothing in the weights that each step produces
CHANGEABLE = (
    "data.allow_leaks",
    "data.cache",
    "data.source",
    "data.worker_timeout",
    "data.workers",
    "device",
    "output",
    "training.checkpoint_epochs",
    "training.checkpoint_minutes",
    "training.early_stopping",
    "training.max_bad_steps",
    "training.max_minutes",
    "training.process_timeout",
)
_README = """\
The training run of a classifier by wbcnets.

config.yaml      all settings; train with this file to repeat the run
log.csv          one row per epoch
train.log        what the terminal showed
tensorboard/     the same curves for TensorBoard, if it is installed
best.pth         weights of the best epoch by {metric}, with class names and image size
best.json        the metrics of that epoch on the evaluation images, overall and per class
last.pth         the newest weights, and all that is needed to resume from them
previous.pth     the checkpoint before that one, in case the newest is damaged
classes.json     class names in the order of the model's outputs
splits.json      the images of training and evaluation: file, class and SHA-256
first_batch.png  images of the first step, augmented as the model saw them
bad_step.*       images of the newest step that was skipped because its numbers were not finite

The .pth files are dictionaries for torch.load(..., weights_only=True): "state_dict" (and
"state_dict_ema", the moving average, if there is one), "model" (name, keywords and number of
classes), "class_names", "data_config" (size, mean and std of the images), "epoch", "metrics" and
"config"; last.pth and previous.pth also have "resume".
"""


class RunFolder:
    """Writes the files of a run; only the main process has one.

    Args:
        path: The folder.
        config: All settings.
        splits: The images.
        data_config: Size, mean and std of the model's images.
    """

    def __init__(
        self, path: Path, config: TrainConfig, splits: CellSplits, data_config: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.config = config
        self.splits = splits
        self.class_names = list(splits.train.class_names)
        self._fingerprint = splits.fingerprint()
        self._description = {
            "model": {
                "name": config.model.name,
                "kwargs": model_kwargs(config),
                "num_classes": len(self.class_names),
            },
            "class_names": self.class_names,
            "data_config": dict(data_config),
            "config": config.model_dump(),
        }

    def start(self) -> None:
        """Writes what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.pth.*"):
            leftover.unlink(missing_ok=True)
        write_text(self.path / CONFIG_NAME, dump_config(self.config))
        self._write_json("classes.json", self.class_names)
        self._write_json("splits.json", _list_images(self.splits))
        readme = _README.format(metric=self.config.training.best_metric)
        write_readme(self.path, COMMAND, readme)

    def save(self, name: str, state: TrainingState) -> None:
        """Writes a checkpoint; all but the best can be resumed.

        Args:
            name: Name of the file.
            state: The state of the run.

        Raises:
            CheckpointError: if the disk is full or the folder is gone; the old file is unchanged.
        """
        progress = state.progress
        row = progress.rows[-1] if progress.rows else {}
        data = {
            **state.weights(),
            **self._description,
            "epoch": progress.epoch,
            "metrics": {
                key.removeprefix("val_"): value
                for key, value in row.items()
                if key.startswith("val_")
            },
        }
        if name != BEST_NAME:
            data["resume"] = {**state.resume_state(), "images": self._fingerprint}
            keep_copy(self.path / name, self.path / PREVIOUS_NAME)
        write_checkpoint(self.path / name, data)

    def write_log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Writes ``log.csv``."""
        names = list(rows[-1])
        write_csv(self.path / "log.csv", [names, *([row[name] for name in names] for row in rows)])

    def write_best(self, epoch: int, metrics: ClassifierMetrics) -> None:
        """Writes ``best.json``, the metrics of the best epoch."""
        self._write_json("best.json", {"epoch": epoch, **metrics.as_dict()})

    def write_first_batch(self, dataset: CellDataset, indices: Sequence[int]) -> None:
        """Draws ``first_batch.png``: at most 32 images of a step."""
        images = [dataset.image(index) for index in indices[:32]]
        captions = [
            f"{self.class_names[dataset.labels[index]]} ({Path(dataset.describe(index)).name})"
            for index in indices[:32]
        ]
        sheet = Image.fromarray(contact_sheet(images, 8, captions, tile_width=160))
        path = self.path / "first_batch.png"
        write_atomically(path, lambda file: sheet.save(file, "PNG"))

    def write_bad_step(
        self, dataset: CellDataset, indices: Sequence[int], details: Mapping[str, float]
    ) -> None:
        """Writes ``bad_step.pth`` and ``bad_step.png``: the images of a step that was skipped.

        Args:
            dataset: The training images, in the epoch of the step.
            indices: The images of the step, over all processes.
            details: Position and numbers of the step.
        """
        save_bad_step(
            self.path / "bad_step",
            [torch.tensor(dataset.image(index)).permute(2, 0, 1) for index in indices],
            [torch.tensor(dataset.labels[index]) for index in indices],
            [dataset.describe(index) for index in indices],
            self.class_names,
            details,
        )

    def _write_json(self, name: str, value: Any) -> None:
        write_text(self.path / name, json.dumps(value, indent=1, ensure_ascii=False))


def _list_images(splits: CellSplits) -> dict[str, Any]:
    """Returns class and SHA-256, if known, of each file of each split."""
    return {
        name: {
            image.file: [manifest.class_names[image.label], image.sha256]
            for image in manifest.images
        }
        for name, manifest in (("train", splits.train), ("val", splits.val))
    }


def check_new(config: TrainConfig) -> Path:
    """Returns the folder of a new run.

    Raises:
        ConfigError: if no folder is given, or if it holds a run, other files or the data.
    """
    output = config.output
    if not output:
        raise ConfigError(
            "output is empty: name a folder for the run, such as runs/pbc_resnet18",
            setting="output",
        )
    path = Path(output)
    check_unlocked(path, COMMAND)
    if (path / CONFIG_NAME).exists():
        raise ConfigError(
            f"{path}: holds a run already; resume it, or choose another folder", setting="resume"
        )
    check_folder(path, COMMAND, [config.model.weights], [config.data.source])
    return path


def read_run(output: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the settings of a run to resume.

    Args:
        output: The run's folder.
        overrides: ``KEY=VALUE`` of keys in ``CHANGEABLE``.

    Raises:
        ConfigError: if there is no run, or if an override would change the weights.
    """
    path = output / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"{output}: no run to resume; it has no {CONFIG_NAME}", setting="resume")
    config = load_config(path, [*overrides, text_override("output", output)])
    changes = find_config_changes(load_config(path), config)
    if changes:
        raise ConfigError(
            f"{'; '.join(changes)}: would change the result of the run; a resumed run may only "
            f"change {', '.join(CHANGEABLE)}. Start a new run instead, from these weights with "
            f"model.weights={output / 'last.pth'}"
        )
    return config


def find_config_changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """Returns a line per setting that decides the weights and differs."""
    old, new = (flatten_settings(config.model_dump()) for config in (before, now))
    return list(find_changes(old, new, CHANGEABLE))


def restore_last(path: Path, state: TrainingState, fingerprint: str) -> None:
    """Restores a run from its newest checkpoint that can be read, if it has one.

    Args:
        path: The run's folder.
        state: Takes the checkpoint.
        fingerprint: The hash of the images, see ``CellSplits``.

    Raises:
        CheckpointError: if there are checkpoints, and all of them are damaged.
        DataError: if the run was trained on other images.
    """
    newest = read_newest([path / LAST_NAME, path / PREVIOUS_NAME])
    if newest is None:
        return
    file, checkpoint = newest
    if checkpoint.get("resume", {}).get("images", fingerprint) != fingerprint:
        raise DataError(
            f"{file}: trained on other images, labels or splits than the data source has now "
            "- put them back, or start a new run",
            setting="data",
        )
    state.restore(checkpoint, str(file))
