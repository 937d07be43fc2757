"""Class probabilities of many images: computed, written as a table, read again."""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from wbcnets.data.cards.classes import OTHER
from wbcnets.engine.precision import AMP_DTYPES, autocast
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.io.tables import read_cell, read_text, write_csv

TTA_MODES = ("none", "flips", "d4")
_COLUMNS = ["file", "true", "predicted", "probability"]
TABLE_MARKER = ",".join(_COLUMNS)


@dataclass(frozen=True)
class CellPrediction:
    """The prediction for one image.

    Attributes:
        label: The most probable class.
        probability: Its probability.
        probabilities: Class name -> probability, in the order of the model's outputs.
        review: Whether a person should look at the cell, see ``Predictions.review``.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    review: bool = False


@dataclass(frozen=True)
class Predictions:
    """The predictions for many images, as arrays.

    Attributes:
        class_names: K names.
        files: N file names.
        probabilities: (N, K); rows sum to 1.
        labels: True classes, (N,); None if they are unknown.
        review_below: The probability below which a person should look at a cell.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | None = None
    review_below: float = 0.0

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def review(self) -> npt.NDArray[np.bool_]:
        """Whether each image is no cell of a known type, or an unsure one, (N,)."""
        other = np.array([name == OTHER for name in self.class_names], dtype=bool)
        unsure = self.probabilities.max(axis=1, initial=0.0) < self.review_below
        return np.asarray(unsure | other[self.predicted], dtype=np.bool_)

    def to_list(self) -> list[CellPrediction]:
        """Returns one object per image."""
        return [
            CellPrediction(label, probability, dict(zip(self.class_names, row)), review)
            for (_, _, label, probability), row, review in zip(
                self.top_predictions(), self.probabilities.tolist(), self.review.tolist()
            )
        ]

    def top_predictions(self) -> list[tuple[str, str, str, float]]:
        """Returns file, true class ("" if unknown), most probable class and its probability."""
        names = self.class_names
        truth = [""] * len(self.files)
        if self.labels is not None:
            truth = [names[label] for label in self.labels]
        labels = [names[index] for index in self.predicted]
        return list(zip(self.files, truth, labels, self.probabilities.max(axis=1).tolist()))

    def to_csv(self, path: Path) -> None:
        """Writes one row per image: file, true class if known, predicted class, probabilities.

        Raises:
            CheckpointError: if the file cannot be written.
        """
        rows = [[*_COLUMNS, *self.class_names]]
        for (*texts, top), row in zip(self.top_predictions(), self.probabilities):
            rows.append([*texts, *(f"{value:.6f}" for value in (top, *row))])
        write_csv(path, rows)

    @classmethod
    def from_csv(cls, path: Path) -> "Predictions":
        """Reads a table that ``to_csv`` wrote.

        Raises:
            DataError: if it is another table.
        """
        try:
            text = read_text(path, "the table")
            table = csv.reader(io.StringIO(text, newline=""))
            header, *rows = [[*map(read_cell, row)] for row in table]
            class_names = tuple(header[4:])
            if header[:4] != _COLUMNS or not class_names:
                raise ValueError(f"its first line is {header[:5]}")
            probabilities = np.array([[float(value) for value in row[4:]] for row in rows])
            probabilities = probabilities.reshape(len(rows), len(class_names))
            if not np.isfinite(probabilities).all():
                raise ValueError("a probability is not a number")
            if len({row[0] for row in rows}) < len(rows):
                raise ValueError("it lists a file twice")
            known = bool(rows) and all(row[1] for row in rows)
            labels = np.array([class_names.index(row[1]) for row in rows]) if known else None
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise DataError(f"{path}: is not a table of predictions ({error})") from error
        return cls(class_names, tuple(row[0] for row in rows), probabilities, labels)


def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    amp: str = "none",
    tta: str = "none",
    total: int | None = None,
    temperature: float = 1.0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Returns the probabilities of all images, (N, K), and their numbers, (N,).

    Args:
        model: A classifier in evaluation mode.
        batches: Images (B, 3, H, W) with numbers (B,), such as labels or positions.
        device: The model's device.
        amp: "none", "bfloat16" or "float16".
        tta: Test-time augmentation, which averages probabilities: "none", "flips" (over the image
            and its three mirror images) or "d4" (over these and their quarter turns, eight in all).
        total: Number of batches, for the progress bar.
        temperature: Divides the logits.

    Raises:
        ConfigError: if ``tta`` or ``amp`` is unknown.
        DataError: if there are no images.
        CheckpointError: if the model's logits are not finite.
    """
    for name, value, known in (("tta", tta, TTA_MODES), ("amp", amp, AMP_DTYPES)):
        if value not in known:
            raise ConfigError(f"{name} {value!r} is unknown; use {', '.join(known)}", setting=name)
    parts, numbers = [], []
    device = torch.device(device)
    for images, second in tqdm(batches, desc="predicting", total=total, disable=_hide_progress()):
        with torch.inference_mode():
            parts.append(_mean_over_tta(model, images.to(device), amp, tta, temperature).cpu())
        numbers.append(second)
    if not parts:
        raise DataError("there are no images to predict")
    probabilities = torch.cat(parts).double()
    broken = int((~probabilities.isfinite().all(dim=1)).sum())
    if broken:
        message = f"the model's logits are not finite for {broken} of {len(probabilities)} images"
        if amp == "float16":
            raise CheckpointError(f"{message}; use bfloat16, or none", setting="amp")
        raise CheckpointError(f"{message}; its weights are damaged")
    return probabilities.numpy(), torch.cat(numbers).numpy()


def check_at_least(least: int, **values: int) -> None:
    """Checks numbers by the names of their arguments.

    Raises:
        ConfigError: if one of them is below ``least``.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(
                f"{name} {value} is out of range; it must be {least} or more", setting=name
            )


def tta_images(images: Tensor, tta: str) -> list[Tensor]:
    """Returns all views of square images (B, C, H, W), the images themselves first."""
    if tta == "none":
        return [images]
    turns = range(4) if tta == "d4" else (0, 2)
    turned = [images.rot90(turn, (2, 3)) for turn in turns]
    return [*turned, *(view.flip(3) for view in turned)]


def _mean_over_tta(
    model: nn.Module, images: Tensor, amp: str, tta: str, temperature: float
) -> Tensor:
    with autocast(images.device.type, amp):
        logits = [model(view).float() for view in tta_images(images, tta)]
    views = [(view / temperature).softmax(dim=1) for view in logits]
    return torch.stack(views).mean(dim=0)


def _hide_progress() -> bool | None:
    """Returns tqdm's ``disable``: bars go to terminals only, unless WBCNETS_PROGRESS is set."""
    return None if "WBCNETS_PROGRESS" not in os.environ else os.environ["WBCNETS_PROGRESS"] == "0"
