"""The folder of a run: what is in it, and how it is written so that a crash leaves it whole."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wbcnets.data.cells.dataset import CellDataset
from wbcnets.engine.resume import find_changes, flatten_settings
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.evaluation.metrics import ClassifierMetrics
from wbcnets.io.atomic_files import keep_copy, write_atomically
from wbcnets.io.checkpoints import read_checkpoint, write_checkpoint
from wbcnets.io.drawing import contact_sheet
from wbcnets.train.config import TrainConfig
from wbcnets.train.config_file import dump_config, load_config
from wbcnets.train.data import CellSplits

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
LAST_NAME = "last.pth"
PREVIOUS_NAME = "previous.pth"
# What may differ when a run goes on: it changes nothing in the weights that come out of each step
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
A run of wbcnets' tools/train_classifier.py.

config.yaml      all settings; `--config` takes it to repeat the run
log.csv          a row per epoch
train.log        what was printed
tensorboard/     the same curves for TensorBoard, where it is installed
best.pth         weights of the best epoch by {metric}, with class names and image size
best.json        its figures on the evaluation images, of all classes and of each
last.pth         the newest weights and all that `--resume` needs to go on from them
previous.pth     the same, one checkpoint earlier, should the newest be damaged
*.sha256         SHA-256 of the files, for `sha256sum --check`
classes.json     class names in the order of the model's outputs
splits.json      the images of training and evaluation
first_batch.png  images of the first step, augmented as the model saw them
bad_step.*       images of the newest step whose numbers were not finite, where there was one

The .pth files are dictionaries for torch.load(..., weights_only=True): "state_dict" (and
"state_dict_ema", the moving average, where there is one), "model" (name, keywords and number of
classes), "class_names", "data_config" (size, mean and std of the images), "epoch", "metrics" and
"config"; last.pth and previous.pth also have "resume".
"""


class RunFolder:
    """Writes the files of a run; only the main process has one.

    Args:
        path: The folder; made where it is missing.
        config: All settings.
        class_names: In the order of the model's outputs.
        data_config: Size, mean and std of the images.
        model: Name, keywords and number of classes.
        fingerprint: Of the images, see `wbcnets.train.data.CellSplits`.
    """

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        class_names: Sequence[str],
        data_config: Mapping[str, Any],
        model: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.path = path
        self.config = config
        self.class_names = list(class_names)
        self.data_config = dict(data_config)
        self.model = dict(model)
        self.fingerprint = fingerprint

    def start(self) -> None:
        """Writes what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.pth.*"):
            leftover.unlink(missing_ok=True)
        self.write_text(CONFIG_NAME, dump_config(self.config))
        self.write_text("classes.json", json.dumps(self.class_names, indent=1, ensure_ascii=False))
        self.write_text("README.txt", _README.format(metric=self.config.training.best_metric))

    def save_weights(
        self,
        name: str,
        weights: Mapping[str, Any],
        epoch: int,
        metrics: Mapping[str, float],
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes a checkpoint whole or not at all.

        Args:
            name: Of the file.
            weights: "state_dict", and "state_dict_ema" where there is one.
            epoch: Epochs that are done.
            metrics: Figures of the last evaluation.
            resume: What `--resume` needs.

        Raises:
            CheckpointError: The disk is full or the folder is gone; the old file is untouched.
        """
        data = {
            **weights,
            "model": self.model,
            "class_names": self.class_names,
            "data_config": self.data_config,
            "epoch": epoch,
            "metrics": dict(metrics),
            "config": self.config.model_dump(),
        }
        if resume is not None:
            data["resume"] = {**resume, "images": self.fingerprint}
        if resume is not None:
            keep_copy(self.path / name, self.path / PREVIOUS_NAME)
        write_checkpoint(self.path / name, data)

    def write_log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Writes `log.csv` anew."""
        if not rows:
            return
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[-1]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("log.csv", stream.getvalue())

    def write_best(self, epoch: int, judgement: ClassifierMetrics) -> None:
        """Writes `best.json`, the figures of the best epoch."""
        figures = {"epoch": epoch, **judgement.as_dict()}
        self.write_text("best.json", json.dumps(figures, indent=1, ensure_ascii=False))

    def write_splits(self, splits: CellSplits) -> None:
        """Writes `splits.json`: file and class of every image, with its hash where known."""
        lists = {}
        for name, manifest in (("train", splits.train), ("val", splits.val)):
            names = manifest.class_names
            rows = {image.file: [names[image.label], image.sha256] for image in manifest.images}
            lists[name] = rows
        self.write_text("splits.json", json.dumps(lists, indent=0, ensure_ascii=False))

    def _draw(self, dataset: CellDataset, indices: Sequence[int], name: str) -> None:
        images = [dataset.image(index) for index in indices[:32]]
        captions = [
            f"{self.class_names[dataset.labels[index]]} "
            f"({Path(dataset.manifest.images[index].file).name})"
            for index in indices[:32]
        ]
        sheet = Image.fromarray(contact_sheet(images, 8, captions, tile_width=160))
        write_atomically(self.path / name, lambda file: sheet.save(file, "PNG"))

    def keep_bad_step(
        self, dataset: CellDataset, indices: Sequence[int], figures: Mapping[str, float]
    ) -> None:
        """Writes `bad_step.pth` and `bad_step.png`: the images of a step that was left out.

        Args:
            dataset: The training images, in the epoch of the step.
            indices: Those of the step, over all processes.
            figures: Epoch, step, loss and norm of the gradients.
        """
        items = [dataset[index] for index in indices]
        data = {
            "images": torch.stack([pixels for pixels, _ in items]),
            "labels": torch.tensor([label for _, label in items]),
            "files": [dataset.describe(index) for index in indices],
            **figures,
        }
        write_atomically(self.path / "bad_step.pth", lambda file: torch.save(data, file))
        self._draw(dataset, indices, "bad_step.png")

    def draw_first_batch(self, dataset: CellDataset, indices: Sequence[int]) -> None:
        """Writes `first_batch.png`: at most 32 images of a step."""
        self._draw(dataset, indices, "first_batch.png")

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file whole or not at all."""
        write_atomically(self.path / name, lambda file: file.write(text.encode("utf-8")))


def check_new(output: str) -> Path:
    """Returns the folder of a new run.

    Raises:
        ConfigError: if no folder is given, or if it holds a run already.
    """
    if not output:
        raise ConfigError(
            "output is empty: name a folder for the run, such as runs/pbc_resnet18",
            setting="output",
        )
    path = Path(output)
    if (path / CONFIG_NAME).exists():
        raise ConfigError(
            f"{path}: holds a run already; resume it, or choose another folder", setting="resume"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; choose another folder", setting="output")
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
    config = load_config(path, [*overrides, f"output={output}"])
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


def read_last(output: Path, fingerprint: str) -> dict[str, Any] | None:
    """The newest checkpoint of a run that can be read, None where it stopped before its first.

    Args:
        output: The run's folder.
        fingerprint: Of the images, see `wbcnets.train.data.CellSplits`.

    Raises:
        CheckpointError: There are checkpoints, and all of them are damaged.
        DataError: It was trained on other images.
    """
    damaged: list[str] = []
    for path in (output / LAST_NAME, output / PREVIOUS_NAME):
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
            damaged.append(str(error))
            continue
        if checkpoint.get("resume", {}).get("images", fingerprint) != fingerprint:
            raise DataError(
                f"{path}: was trained on other images, labels or splits than the data source has "
                "now - put them back, or start a new run"
            )
        return {**checkpoint, "state_dict": checkpoint["model"], "origin": str(path)}
    if damaged:
        raise CheckpointError("no checkpoint can be resumed:\n  " + "\n  ".join(damaged))
    return None
