"""Evaluation of a classifier on labeled images, from weights and data to metrics and a report."""

import os
from pathlib import Path

from torch.utils.data import DataLoader

from wbcnets.data.cells.dataset import CellDataset
from wbcnets.data.cells.loading import CellManifest, load_cells
from wbcnets.errors import ConfigError
from wbcnets.evaluation.class_map import ClassMap, match_classes, read_class_map
from wbcnets.evaluation.classifier import Classifier, load_classifier
from wbcnets.evaluation.metrics import ClassifierMetrics, compute_metrics
from wbcnets.evaluation.predictions import Predictions, check_at_least, predict
from wbcnets.evaluation.report import write_evaluation


def evaluate_classifier(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str = "val",
    output: str | os.PathLike[str] | None = None,
    class_map: ClassMap | str | os.PathLike[str] | None = None,
    compare_with: str | os.PathLike[str] | None = None,
    tta: str = "none",
    amp: str = "none",
    resamples: int = 1000,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    command: str = "",
) -> ClassifierMetrics:
    """Returns the metrics of a classifier on a dataset, and writes a report if wanted.

    Args:
        weights: See ``load_classifier``.
        data: Name of a prepared dataset, manifest, folder or table.
        split: The split to evaluate; empty for all images.
        output: Folder for tables, plots and the report; None writes nothing.
        class_map: The dataset's classes to the model's, or a YAML file of them; None if both have
            the same names.
        compare_with: The ``predictions.csv`` of another classifier, for McNemar's test.
        tta: Test-time augmentation: "none", "flips" or "d4".
        amp: Automatic mixed precision: "none", "bfloat16" or "float16".
        resamples: Bootstrap resamples for the intervals; 0 leaves them out.
        batch_size: Images per batch.
        workers: Processes that load images.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        command: The command line, for the report.

    Raises:
        ConfigError: if an argument is out of range.
        CheckpointError: if the weights cannot be loaded.
        DataError: if the data or another input file cannot be used.
    """
    check_at_least(1, batch_size=batch_size)
    check_at_least(0, workers=workers, resamples=resamples)
    folder = _output_folder(output, compare_with is not None)
    # Small files first: a mistake in one must show before the model runs
    if isinstance(class_map, (str, os.PathLike)):
        class_map = read_class_map(Path(class_map))
    baseline = None if compare_with is None else Predictions.from_csv(Path(compare_with))
    manifest = load_cells(data)
    if split:
        manifest = manifest.split(split)
    classifier = load_classifier(weights, device)
    match = match_classes(manifest.class_names, classifier.class_names, class_map)
    manifest, left_out = match.select(manifest)
    predictions = match.merge(
        predict_manifest(
            classifier, manifest, tta=tta, amp=amp, batch_size=batch_size, workers=workers
        )
    )
    metrics = compute_metrics(
        manifest.labels,
        predictions.probabilities,
        predictions.class_names,
        groups=[image.group for image in manifest.images],
        resamples=resamples,
    )
    if folder is not None:
        about = [
            f"Model: {classifier.name}",
            f"Data: {os.fspath(data)}, split {split or 'all'}, {len(manifest.images)} images, "
            f"{sum(left_out.values())} left out by the class map"
            + "".join(f", {count} {name}" for name, count in left_out.items()),
            f"Test-time augmentation: {tta}",
            # The run's own log may use another precision, which changes a few predictions
            f"Precision: {'float32' if amp == 'none' else amp}",
            *([f"Command: `{command}`"] if command else []),
        ]
        write_evaluation(folder, manifest, predictions, metrics, about, baseline)
    return metrics


def predict_manifest(
    classifier: Classifier,
    manifest: CellManifest,
    *,
    tta: str = "none",
    amp: str = "none",
    batch_size: int = 64,
    workers: int = 2,
) -> Predictions:
    """Returns predictions, in the classifier's classes, for all images of a manifest.

    The true classes are those of the manifest, whose class names may differ.
    """
    dataset = CellDataset(manifest, classifier.resize, classifier.mean, classifier.std)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    probabilities, labels = predict(
        classifier.model, loader, device=classifier.device, tta=tta, amp=amp, total=len(loader)
    )
    files = tuple(image.file for image in manifest.images)
    return Predictions(classifier.class_names, files, probabilities, labels)


def _output_folder(output: str | os.PathLike[str] | None, compares: bool) -> Path | None:
    if output is None:
        if compares:
            raise ConfigError("a comparison is part of the report; name a folder as output")
        return None
    if Path(output).exists() and not Path(output).is_dir():
        raise ConfigError(f"output {Path(output)}: is a file; name a folder", setting="output")
    return Path(output)
