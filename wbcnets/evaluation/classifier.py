"""A trained classifier, loaded from a run's checkpoint, a registered name or a saved folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from wbcnets.data.cells.augmentation import CellAugmentation
from wbcnets.data.cells.dataset import PixelNormalization
from wbcnets.engine.device import choose_device
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.evaluation.metadata import (
    Calibration,
    ClassifierMetadata,
    no_class_names,
    read_folder,
    read_run_metadata,
)
from wbcnets.evaluation.predictions import CellPrediction, Predictions, check_at_least, predict
from wbcnets.io.checkpoints import load_into, read_checkpoint, read_state_dict
from wbcnets.io.images import ImageLike, NamedReader, RgbImage, named_readers
from wbcnets.models.keywords import create_checked, with_img_size
from wbcnets.models.limits import limit_by_weights
from wbcnets.version import __version__

Unreadable = list[tuple[str, str]]
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Classifier:
    """A model with its classes and its preprocessing.

    Attributes:
        name: The source it was loaded from.
        model: In evaluation mode.
        class_names: In the order of the logits.
        image_size: Side of the square input images, in px.
        mean: Per channel, in [0, 1].
        std: Per channel, in [0, 1].
        preset: The augmentation preset, without randomness, that resizes images.
        model_args: The keywords that created the model.
        calibration: Scales the probabilities, and tells which cells a person should look at.
    """

    name: str
    model: nn.Module
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preset: str = "none"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @cached_property
    def resize(self) -> CellAugmentation:
        """Resizes an image, (H, W, 3) -> (S, S, 3) uint8."""
        return CellAugmentation(self.preset, self.image_size)

    @cached_property
    def _normalize(self) -> PixelNormalization:
        return PixelNormalization(self.mean, self.std)

    def preprocess(self, image: RgbImage) -> Tensor:
        """(H, W, 3) uint8 RGB -> (3, S, S) float32, resized and normalized.

        Raises:
            DataError: if the image has another shape or type.
        """
        return self._normalize(self.resize(image, seed=0))

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int = 64,
        tta: str = "none",
        amp: str = "none",
    ) -> list[CellPrediction]:
        """Returns one prediction per image.

        Args:
            images: One or a list of paths, Pillow images or (H, W, 3) uint8 RGB arrays.
            batch_size: Images per batch.
            tta: Test-time augmentation: "none", "flips" or "d4", see ``predictions.predict``.
            amp: Automatic mixed precision: "none", "bfloat16" or "float16".

        Raises:
            DataError: if images cannot be read; all are listed.
            ConfigError: if another argument is out of range.
        """
        readers = named_readers(images)
        if not readers:
            return []
        predictions, unreadable = self.predict_readable(readers, batch_size, tta=tta, amp=amp)
        if unreadable:
            raise DataError(
                f"{len(unreadable)} of {len(readers)} images cannot be used",
                [reason for _, reason in unreadable],
            )
        return predictions.to_list()

    def predict_readable(
        self, readers: Sequence[NamedReader], batch_size: int = 64, **options: str
    ) -> tuple[Predictions, Unreadable]:
        """Returns predictions for all images that can be read, and the others with reasons.

        Args:
            readers: Name of each image, and a function that returns it as (H, W, 3) uint8 RGB or
                raises ``DataError``.
            batch_size: Images per batch.
            options: ``tta`` and ``amp`` of ``predictions.predict``.

        Raises:
            ConfigError: if an argument is out of range.
        """
        check_at_least(1, batch_size=batch_size)
        unreadable: Unreadable = []
        try:
            probabilities, indices = predict(
                self.model,
                self._batches(readers, batch_size, unreadable),
                device=self.device,
                total=-(-len(readers) // batch_size),
                temperature=self.calibration.temperature,
                **options,
            )
        except DataError:
            if len(unreadable) < len(readers):
                raise
            probabilities, indices = np.zeros((0, len(self.class_names))), np.zeros(0, np.int64)
        files = tuple(readers[index][0] for index in indices)
        review_below = self.calibration.review_below
        return Predictions(
            self.class_names, files, probabilities, review_below=review_below
        ), unreadable

    def _batches(
        self, readers: Sequence[NamedReader], batch_size: int, unreadable: Unreadable
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(readers), batch_size):
            images = {}
            for index, (name, read) in enumerate(readers[start : start + batch_size], start):
                try:
                    images[index] = self.preprocess(read())
                except DataError as error:
                    reason = str(error)
                    unreadable.append((name, reason if name in reason else f"{name}: {reason}"))
            if images:
                yield torch.stack(list(images.values())), torch.tensor(list(images))


def load_classifier(source: str | os.PathLike[str], device: str = "auto") -> Classifier:
    """Loads a classifier for prediction; runs no code from its files.

    Args:
        source: A checkpoint of a training run, a folder that ``export_classifier`` wrote, a name
            such as "resnext_cc_26.pbc" whose configuration has class names, "local-dir:FOLDER" or
            "hf-hub:NAME".
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        CheckpointError: if it cannot be loaded, or does not name its classes.
        ConfigError: if there is no such device.
    """
    chosen = choose_device(device)
    name = os.fspath(source)
    kind, _, place = name.partition(":")
    folder = Path(place if kind == "local-dir" else name)
    if os.path.isdir(folder) or kind == "local-dir":
        classifier = _from_metadata(name, *read_folder(folder))
    elif os.path.isfile(folder):
        classifier = _from_metadata(name, read_run_metadata(folder), folder)
    elif folder.suffix in CHECKPOINT_SUFFIXES:
        raise CheckpointError(f"{name}: no such file; correct the path of the checkpoint")
    elif kind == "hf-hub":
        classifier = _from_metadata(name, *read_folder(_download(place)))
    else:
        classifier = _from_registry(name)
    classifier.model.to(chosen)
    return classifier


def _from_metadata(source: str, metadata: ClassifierMetadata, weights: Path) -> Classifier:
    architecture, data = metadata.architecture, metadata.data_config
    name, image_size = architecture.name, data.input_size[-1]
    if not timm.is_model(name):
        raise CheckpointError(
            f"{source}: holds a model {name!r}, which neither timm {timm.__version__} nor wbcnets "
            f"{__version__} knows; update them"
        )
    keywords = with_img_size(name, architecture.kwargs, image_size)
    count = len(metadata.class_names)
    try:
        limit = limit_by_weights(read_state_dict(weights))
        origin = f"{source}: architecture.kwargs"
        model = create_checked(name, keywords, origin, limit, count)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    load_into(model, weights, f"{name} with {count} classes")
    return Classifier(
        name=source,
        model=model.eval(),
        class_names=tuple(metadata.class_names),
        image_size=image_size,
        mean=tuple(data.mean),
        std=tuple(data.std),
        preset=data.augmentation,
        model_args=architecture.kwargs,
        calibration=metadata.calibration,
    )


def _download(name: str) -> Path:
    """Fetches the configuration and the weights of a model on the Hugging Face hub."""
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=["config.json", "*.safetensors"]
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"hf-hub:{name}: could not be downloaded ({error})") from error
    return Path(folder)


def _from_registry(name: str) -> Classifier:
    if not timm.is_model(name):
        raise CheckpointError(
            f"{name}: no such file or folder, and neither timm nor wbcnets has a model of that name"
        )
    # Checked before the weights are downloaded: those of ImageNet are of no use here
    registered = timm.get_pretrained_cfg(name)
    if registered is None or not registered.label_names:
        raise no_class_names(name)
    try:
        model = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{name}: its weights could not be loaded ({error})") from error
    data = resolve_model_data_config(model)
    return Classifier(
        name=name,
        model=model.eval(),
        class_names=tuple(registered.label_names),
        image_size=data["input_size"][-1],
        mean=data["mean"],
        std=data["std"],
        calibration=_shipped_calibration(registered.file),
    )


def _shipped_calibration(file: str | None) -> Calibration:
    """Returns the calibration in the header of a file of the package; weights may have none."""
    stored = read_checkpoint(Path(file)).get("calibration") if file else None
    return Calibration.model_validate(stored or {})
