"""Evaluation of a classifier on labeled images, from weights and data to metrics and a report."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from wbcnets.data.cards.classes import OTHER
from wbcnets.data.cells.dataset import CellDataset
from wbcnets.data.cells.loading import load_cells
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.engine.loader import WatchedLoader, check_workers
from wbcnets.errors import ConfigError
from wbcnets.evaluation.class_map import ClassMap, match_classes, read_class_map
from wbcnets.evaluation.classifier import Classifier, load_classifier
from wbcnets.evaluation.metadata import Calibration
from wbcnets.evaluation.metrics import ClassifierMetrics, compute_metrics
from wbcnets.evaluation.predictions import Predictions, check_at_least, predict
from wbcnets.evaluation.report import COMMAND, write_evaluation
from wbcnets.io.outputs import claim_folder

StrPath = str | os.PathLike[str]


def evaluate_classifier(
    weights: StrPath,
    data: StrPath,
    *,
    split: str = "val",
    output: StrPath | None = None,
    class_map: ClassMap | StrPath | None = None,
    only_present: bool = False,
    compare_with: StrPath | None = None,
    tta: str = "none",
    amp: str = "none",
    resamples: int = 1000,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    command: str = "",
) -> ClassifierMetrics:
    """Returns the metrics of a classifier on a dataset, and writes a report if asked to.

    Args:
        weights: See ``load_classifier``.
        data: Name of a prepared dataset, manifest, folder or table.
        split: The split to evaluate, or several such as "bccd_train+bccd_val"; empty for all.
        output: Folder for tables, plots and the report; None writes nothing.
        class_map: The dataset's classes to the model's, or a YAML file of them; None if the
            model has all classes of the dataset.
        only_present: Whether images of classes that the model lacks are left out, and the model
            chooses among the classes that the images have.
        compare_with: The ``predictions.csv`` of another classifier, for McNemar's test.
        tta: See ``predict``.
        amp: See ``predict``.
        resamples: Bootstrap resamples for the intervals; 0 leaves them out.
        batch_size: Images per batch.
        workers: Processes that load images.
        device: See ``load_classifier``.
        command: The command line, for the report.

    Raises:
        WbcnetsError: if an argument, the weights, the data or another input cannot be used.
    """
    check_at_least(1, batch_size=batch_size)
    check_at_least(0, workers=workers, resamples=resamples)
    check_workers(workers, "workers", setting="workers")
    # Small files first: a mistake in one must show before the model runs
    folder = None if output is None else Path(output)
    if folder is None and compare_with is not None:
        raise ConfigError("a comparison is part of the report; name a folder as output")
    files = [path for path in (class_map, compare_with) if isinstance(path, (str, os.PathLike))]
    with claim_folder(folder, COMMAND, [weights, *files], [data]) if folder else nullcontext():
        if isinstance(class_map, (str, os.PathLike)):
            class_map = read_class_map(Path(class_map))
        baseline = None if compare_with is None else Predictions.from_csv(Path(compare_with))
        manifest = load_cells(data).split(split) if split else load_cells(data)
        classifier = load_classifier(weights, device)
        if only_present and class_map is None:
            shared = set(manifest.class_names) & set(classifier.class_names) - {OTHER}
            class_map = {name: name for name in shared}
        match = match_classes(manifest.class_names, classifier.class_names, class_map)
        manifest, left_out = match.select(manifest)
        predictions = match.merge(
            predict_manifest(classifier, manifest, batch_size, workers, tta=tta, amp=amp)
        )
        if only_present:
            manifest, predictions = _keep_present(manifest, predictions)
        groups = [image.group for image in manifest.images]
        metrics = compute_metrics(
            manifest.labels,
            predictions.probabilities,
            predictions.class_names,
            groups,
            resamples=resamples,
        )
        if folder is not None:
            about = [
                f"Model: {classifier.name}",
                _describe_data(data, split, manifest, left_out),
                f"Test-time augmentation: {tta}",
                *(["Choice among the classes that the images have"] if only_present else []),
                # The run's own log may use another precision, which changes a few predictions
                f"Precision: {'float32' if amp == 'none' else amp}",
                *([f"Command: `{command}`"] if command else []),
            ]
            write_evaluation(folder, manifest, predictions, metrics, about, baseline)
        return metrics


def predict_manifest(
    classifier: Classifier,
    manifest: CellManifest,
    batch_size: int = 64,
    workers: int = 2,
    *,
    calibrated: bool = True,
    **options: str,
) -> Predictions:
    """Returns predictions in the classifier's classes, with the labels of the manifest.

    Args:
        classifier: The model.
        manifest: The images.
        batch_size: Images per batch.
        workers: Processes that load images.
        calibrated: Whether to apply the classifier's temperature.
        options: ``tta`` and ``amp`` of ``predict``.

    Raises:
        DataError: if images cannot be read.
    """
    calibration = classifier.calibration if calibrated else Calibration()
    dataset = CellDataset(manifest, classifier.resize, classifier.mean, classifier.std)
    loader = WatchedLoader(dataset, dataset.describe, workers, batch_size=batch_size)
    probabilities, labels = predict(
        classifier.model,
        loader,
        device=classifier.device,
        total=len(loader),
        temperature=calibration.temperature,
        **options,
    )
    files = tuple(image.file for image in manifest.images)
    return Predictions(
        classifier.class_names, files, probabilities, labels, calibration.review_below
    )


def _keep_present(
    manifest: CellManifest, predictions: Predictions
) -> tuple[CellManifest, Predictions]:
    """Leaves out the classes without images, and scales the probabilities of the others to 1."""
    present = [index for index, count in enumerate(manifest.counts()) if count]
    names = tuple(manifest.class_names[index] for index in present)
    kept = predictions.probabilities[:, present].clip(1e-12)
    images = tuple(replace(image, label=present.index(image.label)) for image in manifest.images)
    labels = np.array([image.label for image in images], dtype=np.int64)
    probabilities = kept / kept.sum(axis=1, keepdims=True)
    chosen = replace(predictions, class_names=names, probabilities=probabilities, labels=labels)
    return replace(manifest, class_names=names, images=images), chosen


def _describe_data(
    data: StrPath, split: str, manifest: CellManifest, left_out: Mapping[str, int]
) -> str:
    counts = "".join(f", {count} {name}" for name, count in left_out.items())
    return (
        f"Data: {os.fspath(data)}, split {split or 'all'}, {len(manifest.images)} images, "
        f"{sum(left_out.values())} left out by the class map{counts}"
    )
