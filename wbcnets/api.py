"""The functions behind ``import wbcnets``: check, load, train and evaluate in one call each.

Every function imports what it needs when it is called, so that ``import wbcnets`` stays quick and
``check`` works without the packages that training needs.
"""

import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcnets.errors import ConfigError, MissingPackageError

if TYPE_CHECKING:
    from wbcnets.data.check import CheckResult
    from wbcnets.evaluation.classifier import Classifier

SMEARS = "wbcnets.smears"
PathLike = str | os.PathLike[str]


def check(paths: PathLike | Iterable[PathLike], **options: Any) -> "CheckResult":
    """Finds every problem of datasets in one pass; ``print(result.summary())`` lists them.

    Args:
        paths: One or several annotation files or folders, of any format that training reads.
        options: Fields of ``wbcnets.data.check.CheckOptions``, such as ``strict=True``.

    Raises:
        ConfigError: if an option is wrong.
    """
    from wbcnets.data.check import CheckOptions, check_datasets

    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if options.get("images") is not None:
        options["images"] = Path(options["images"])
    return check_datasets([Path(path) for path in listed], CheckOptions(**options))


def load_classifier(source: PathLike, device: str = "auto") -> "Classifier":
    """Loads a classifier; ``load_classifier("resnext_cc_26.pbc").predict(images)``.

    Args:
        source: The name of a shipped model, or a checkpoint or export of a training.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        CheckpointError: if it cannot be loaded, or does not name its classes.
        ConfigError: if there is no such device.
    """
    from wbcnets.evaluation.classifier import load_classifier

    return load_classifier(source, device)


def train_classifier(
    data: PathLike | Mapping[str, Any],
    output: PathLike,
    model: str | Mapping[str, Any] = "",
    *,
    preset: PathLike = "",
    resume: bool = False,
    **settings: Any,
) -> Path:
    """Trains a classifier of cell images; returns its best weights, for ``load_classifier``.

    ``train_classifier("my_cells", "output/mine", "resnet18", training={"epochs": 20})`` fine-tunes
    a model of timm on a folder with one folder per class.

    Args:
        data: The name of a prepared dataset, the path of a folder, manifest or table, or the
            settings of ``data``, such as ``{"source": "my_cells", "img_size": 96}``.
        output: The folder for weights, metrics and plots.
        model: A name that ``timm.create_model`` knows, or the settings of ``model``.
        preset: A preset or a YAML file to start from; by default the library's defaults.
        resume: Whether to continue the training in ``output``.
        settings: Other settings as sections, ``optimizer={"lr": 1e-3}``, or with dotted keys,
            ``**{"optimizer.lr": 1e-3}``. ``wbcnets.train.config.TrainConfig`` lists all.

    Raises:
        WbcnetsError: if the settings, the data or the weights cannot be used.
        FloatingPointError: if too many steps in a row are not finite.
        KeyboardInterrupt: if the training is asked to stop; ``resume`` continues it.
    """
    from wbcnets.train.config_file import load_config, text_override
    from wbcnets.train.run import resume_training
    from wbcnets.train.run import train_classifier as train

    settings["data"] = data if isinstance(data, Mapping) else {"source": os.fspath(data)}
    if model:
        settings["model"] = model if isinstance(model, Mapping) else {"name": model}
    overrides = _overrides(settings)
    if resume:
        resume_training(Path(output), overrides)
    else:
        train(load_config(os.fspath(preset), [*overrides, text_override("output", output)]))
    return Path(output) / "best.pth"


def _overrides(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns nested settings as KEY=VALUE; JSON without escapes is YAML."""
    from wbcnets.train.config_file import text_override

    lines: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += _overrides(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            lines.append(text_override(prefix + key, value))
        else:
            lines.append(f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}")
    return lines


def load_detector(source: PathLike, **options: Any) -> Any:
    """Loads a detector; ``load_detector("mfds_detr_tiny_bccd").predict(images)``.

    Args:
        source: The name of shipped weights, or a checkpoint of a training.
        options: ``device``, ``threshold`` and ``config_file``, see ``mfds_detr.api``.

    Raises:
        ConfigError: if the detector is not installed, or an option is wrong.
        CheckpointError: if the weights cannot be loaded.
    """
    return import_smears("api").load_detector(source, **options)


def train_detector(train: Any, test: Any = None, *, output: PathLike, **options: Any) -> Path:
    """Trains a detector of cells in smears; returns its best weights, for ``load_detector``.

    Args:
        train: The name of a prepared dataset, a pair of a COCO file and the folder of its images,
            or a list of these.
        test: The same, for choosing the best checkpoint; or None.
        output: The folder for weights, metrics and plots.
        options: ``config_file``, ``weights``, ``device``, ``resume`` and ``overrides``, see
            ``mfds_detr.api``.

    Raises:
        WbcnetsError: if the detector is not installed, or the config or the data are wrong.
    """
    path: Path = import_smears("api").train_detector(train, test, output=output, **options)
    return path


def evaluate(weights: PathLike, data: Any, kind: str = "cells", **options: Any) -> Any:
    """Measures a trained model on labeled data.

    Args:
        weights: As for ``load_classifier`` or ``load_detector``.
        data: Labeled cells as for ``train_classifier``, or smears as for ``train_detector``.
        kind: "cells" or "smears".
        options: See ``wbcnets.evaluation.evaluate.evaluate_classifier``, which returns
            ``ClassifierMetrics``, or ``mfds_detr.api.evaluate_detector``, which returns COCO's
            metrics.

    Raises:
        WbcnetsError: if the weights, the data or an option cannot be used.
    """
    if kind == "smears":
        return import_smears("api").evaluate_detector(weights, data, **options)
    if kind != "cells":
        raise ConfigError(f"kind={kind!r}: use cells or smears", setting="kind")
    from wbcnets.evaluation.evaluate import evaluate_classifier

    return evaluate_classifier(weights, data, **options)


def import_smears(name: str) -> Any:
    """Returns the detector's module for a key of the entry-point group ``wbcnets.smears``.

    Args:
        name: "train", "evaluate", "predict", "export", "benchmark" or "api".

    Raises:
        ConfigError: if the detector or a package that it needs is not installed.
    """
    install = "run: pip install 'wbcnets[detection]', then: wbcnets install-detectron2"
    found = entry_points(group=SMEARS, name=name)
    if not found:
        raise ConfigError(f"the detector is not installed; {install}")
    try:
        return next(iter(found)).load()
    except (ModuleNotFoundError, MissingPackageError) as error:
        reason = error.__cause__ or error
        raise MissingPackageError(
            f"the detector cannot be imported: {reason}; {install}"
        ) from error
