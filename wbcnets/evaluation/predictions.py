"""Class probabilities of many images: computed, kept as a table, read again."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from wbcnets.engine.precision import AMP_DTYPES, autocast
from wbcnets.errors import CheckpointError, ConfigError, DataError

TTA_MODES = ("none", "flips", "d4")


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about images.

    Attributes:
        class_names: K names.
        files: N names of files.
        probabilities: (N, K), rows sum to 1.
        labels: True classes (N,), where they are known.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | None = None

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image: (N,)."""
        return self.probabilities.argmax(axis=1)

    def to_csv(self, path: Path) -> None:
        """Writes a row an image: file, true class where known, predicted class, probabilities."""
        header = ["file", "true", "predicted", "probability", *self.class_names]
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            for index, (file, place) in enumerate(zip(self.files, self.predicted)):
                truth = "" if self.labels is None else self.class_names[self.labels[index]]
                row = self.probabilities[index]
                shares = [f"{value:.6f}" for value in row]
                writer.writerow(
                    [file, truth, self.class_names[place], f"{row[place]:.6f}", *shares]
                )

    @classmethod
    def from_csv(cls, path: Path) -> "Predictions":
        """Reads what `to_csv` wrote.

        Raises:
            DataError: It is another table.
        """
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                header, *rows = list(csv.reader(stream))
            class_names = tuple(header[4:])
            if header[:4] != ["file", "true", "predicted", "probability"] or not class_names:
                raise ValueError(f"its first line is {header[:5]}")
            shares = np.array([[float(value) for value in row[4:]] for row in rows])
            shares = shares.reshape(len(rows), len(class_names))
            if not np.isfinite(shares).all():
                raise ValueError("a probability is no number")
            if len({row[0] for row in rows}) < len(rows):
                raise ValueError("a file is in it twice")
            known = bool(rows) and all(row[1] for row in rows)
            labels = np.array([class_names.index(row[1]) for row in rows]) if known else None
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{path}: no table of predictions ({error})") from error
        return cls(class_names, tuple(row[0] for row in rows), shares, labels)


def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    amp: str = "none",
    views: str = "none",
    total: int | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Probabilities of all images, and the second item of each batch.

    Args:
        model: A classifier in evaluation mode.
        batches: Images (B, 3, H, W) with numbers (B,), such as labels.
        device: Where the model is.
        amp: "none", "bfloat16" or "float16".
        views: Of which views the probabilities are averaged: "none", the image as it is; "flips",
            it and its three mirror images; "d4", these with quarter turns, eight in all.
        total: Number of batches, for the progress bar.

    Returns:
        (N, K) and (N,).

    Raises:
        ConfigError: The views or the type are unknown.
        DataError: There are no images.
        CheckpointError: The model's logits are not finite.
    """
    if views not in TTA_MODES or amp not in AMP_DTYPES:
        raise ConfigError(
            f"views={views!r} and amp={amp!r}: use views of {list(TTA_MODES)}, amp of "
            f"{list(AMP_DTYPES)}"
        )
    probabilities, numbers = [], []
    device = torch.device(device)
    for images, second in tqdm(batches, desc="predicting", total=total, disable=_quiet()):
        with torch.inference_mode():
            probabilities.append(_mean_over_tta(model, images.to(device), amp, views).cpu())
        numbers.append(second)
    if not probabilities:
        raise DataError("there are no images to predict")
    shares = torch.cat(probabilities).double()
    broken = int((~shares.isfinite().all(dim=1)).sum())
    if broken:
        raise CheckpointError(
            f"the model gives no finite logits for {broken} of {len(shares)} images"
            + ("; try --amp bfloat16 or none" if amp == "float16" else "; its weights are damaged")
        )
    return shares.numpy(), torch.cat(numbers).numpy()


def tta_images(images: Tensor, views: str) -> list[Tensor]:
    """The views of square images (B, C, H, W), the images themselves first."""
    if views == "none":
        return [images]
    turns = range(4) if views == "d4" else (0, 2)
    turned = [images.rot90(turn, (2, 3)) for turn in turns]
    return [*turned, *(view.flip(3) for view in turned)]


def _mean_over_tta(model: nn.Module, images: Tensor, amp: str, views: str) -> Tensor:
    shares: list[Tensor] = []
    with autocast(images.device.type, amp):
        shares.extend(model(view).float().softmax(dim=1) for view in tta_images(images, views))
    return torch.stack(shares).mean(dim=0)


def _quiet() -> bool | None:
    """Bars go to terminals only, unless the variable says otherwise."""
    return None if "WBCNETS_PROGRESS" not in os.environ else os.environ["WBCNETS_PROGRESS"] == "0"


def common_files(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the files that two lists share, as pairs in the order of the first."""
    places = {file: place for place, file in enumerate(second)}
    return [(index, places[file]) for index, file in enumerate(first) if file in places]
