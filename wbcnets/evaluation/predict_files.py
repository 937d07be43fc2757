"""Classifying images that come from anywhere, with those that cannot be read named."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wbcnets.engine.device import choose_device
from wbcnets.errors import DataError
from wbcnets.evaluation.classifier import Classifier
from wbcnets.evaluation.predictions import Predictions, predict
from wbcnets.io.image_sources import ImageSource

Problems = list[tuple[str, str]]


def predict_sources(
    classifier: Classifier,
    sources: Sequence[ImageSource],
    batch_size: int = 64,
    device: str = "auto",
    amp: str = "none",
    views: str = "none",
) -> tuple[Predictions | None, Problems]:
    """Probabilities of all images that can be read, and the others with what is wrong with them.

    Returns:
        None in place of predictions where no image could be read.
    """
    problems: Problems = []
    where = choose_device(device)
    batches = _batches(classifier, sources, batch_size, problems)
    total = -(-len(sources) // batch_size)
    try:
        probabilities, places = predict(
            classifier.model.to(where), batches, device=where, amp=amp, views=views, total=total
        )
    except DataError:
        if len(problems) < len(sources):
            raise
        return None, problems
    files = tuple(sources[place].name for place in places)
    return Predictions(classifier.class_names, files, probabilities), problems


def write_problems(problems: Problems, path: Path) -> None:
    """Writes a row an image that could not be read."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "problem"])
        writer.writerows(problems)


def _batches(
    classifier: Classifier, sources: Sequence[ImageSource], batch_size: int, problems: Problems
) -> Iterator[tuple[Tensor, Tensor]]:
    resize = classifier.preprocessing()
    mean = torch.tensor(classifier.mean).view(3, 1, 1)
    std = torch.tensor(classifier.std).view(3, 1, 1)
    images: list[Tensor] = []
    places: list[int] = []
    for place, source in enumerate(sources):
        try:
            image = resize(source.read(), seed=0)
        except DataError as error:
            problems.append((source.name, str(error)))
            continue
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        images.append((pixels - mean) / std)
        places.append(place)
        if len(images) == batch_size:
            yield torch.stack(images), torch.tensor(places)
            images, places = [], []
    if images:
        yield torch.stack(images), torch.tensor(places)
