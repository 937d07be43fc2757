"""Class maps: a dataset's classes to a model's, where the two differ.

A file has one line per class of the dataset, ``ig: IG``. Several classes of the dataset may map to
one class of the model. One class of the dataset may map to several of the model,
``neutrophil: [band, segmented]``, whose probabilities are then added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wbcnets.data.cells.manifest import CellManifest
from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.predictions import Predictions
from wbcnets.io.strict_yaml import StrictLoader, read_yaml

ClassMap = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class ClassMatch:
    """The classes in which a model is evaluated on a dataset.

    Attributes:
        class_names: M names: the model's classes, where merged ones share a name.
        data_indices: Index in ``class_names`` of each class of the dataset, or None.
        model_indices: Index in ``class_names`` of each class of the model.
    """

    class_names: tuple[str, ...]
    data_indices: tuple[int | None, ...]
    model_indices: tuple[int, ...]

    def select(self, manifest: CellManifest) -> tuple[CellManifest, dict[str, int]]:
        """Returns the images of mapped classes, and the number of images of each other class.

        Raises:
            DataError: if no image is left.
        """
        counts: dict[str, int] = {}
        images = []
        for image in manifest.images:
            label = self.data_indices[image.label]
            if label is None:
                name = manifest.class_names[image.label]
                counts[name] = counts.get(name, 0) + 1
            else:
                images.append(replace(image, label=label))
        if not images:
            raise DataError(
                f"{manifest.name}: no image has a class that the class map names, only "
                f"{', '.join(counts) or 'nothing'}; add one of them",
                setting="class_map",
            )
        return replace(manifest, class_names=self.class_names, images=tuple(images)), counts

    def merge(self, predictions: Predictions) -> Predictions:
        """Adds the probabilities of merged classes, (N, K) -> (N, M); the labels stay."""
        merged = np.zeros((len(predictions.files), len(self.class_names)))
        for column, index in enumerate(self.model_indices):
            merged[:, index] += predictions.probabilities[:, column]
        return replace(predictions, class_names=self.class_names, probabilities=merged)


def match_classes(
    data_classes: Sequence[str], model_classes: Sequence[str], class_map: ClassMap | None = None
) -> ClassMatch:
    """Matches a dataset's classes with a model's.

    Args:
        data_classes: The dataset's class names.
        model_classes: The model's class names.
        class_map: Class of the dataset -> one or several of the model; None if the model has all
            classes of the dataset, in any order.

    Raises:
        DataError: if the names differ without a map, a name in the map is unknown, or two classes
            of the dataset share only some of their classes of the model.
    """
    if class_map is None:
        if not set(data_classes) <= set(model_classes):
            raise DataError(
                "the dataset has classes that the model lacks; map those of the dataset to those "
                "of the model",
                [f"dataset: {', '.join(data_classes)}", f"model: {', '.join(model_classes)}"],
                setting="class_map",
            )
        class_map = {name: name for name in data_classes}
    targets = {name: _as_tuple(value) for name, value in class_map.items()}
    problems = _find_problems(data_classes, model_classes, targets)
    if problems:
        raise DataError("the class map cannot be used", problems, setting="class_map")
    group_of = {name: group for group in targets.values() for name in group}
    groups = list(dict.fromkeys(group_of.get(name, (name,)) for name in model_classes))
    return ClassMatch(
        class_names=tuple(_group_name(group, targets, model_classes) for group in groups),
        data_indices=tuple(
            groups.index(group_of[targets[name][0]]) if name in targets else None
            for name in data_classes
        ),
        model_indices=tuple(groups.index(group_of.get(name, (name,))) for name in model_classes),
    )


class _TextLoader(StrictLoader):
    """Reads every scalar as it is written: ``1`` and ``no`` are names, too."""

    yaml_implicit_resolvers = {}


def read_class_map(path: Path) -> dict[str, str | list[str]]:
    """Reads a YAML file of ``class of the dataset: class of the model, or a list of them``.

    Raises:
        ConfigError: if the file cannot be read, or holds anything else.
    """
    content = read_yaml(path, _TextLoader)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: must map class names to class names, one per line: 'ig: IG'")
    for name, value in content.items():
        names = (name, *(value if isinstance(value, list) else [value]))
        if not all(isinstance(text, str) and text for text in names):
            raise ConfigError(f"{path}: {name!r} must be NAME: NAME or NAME: [NAME, NAME]")
    return content


def _as_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _find_problems(
    data_classes: Sequence[str],
    model_classes: Sequence[str],
    targets: Mapping[str, tuple[str, ...]],
) -> list[str]:
    problems = [
        f"{name!r} is not a class of the dataset ({', '.join(data_classes)})"
        for name in targets
        if name not in data_classes
    ]
    known = ", ".join(model_classes)
    for name, group in targets.items():
        unknown = [target for target in group if target not in model_classes]
        problems += [f"{target!r} is not a class of the model ({known})" for target in unknown]
        if not group or len(set(group)) < len(group):
            problems.append(f"{name!r}: maps to {list(group)}; name each class of the model once")
    first: dict[str, str] = {}
    for name, group in targets.items():
        for target in group:
            other = first.setdefault(target, name)
            if set(targets[other]) != set(group):
                problems.append(
                    f"{other!r} and {name!r} share {target!r}, but not all of their classes of the "
                    "model; map both to the same list"
                )
    return list(dict.fromkeys(problems))


def _group_name(
    group: tuple[str, ...], targets: Mapping[str, tuple[str, ...]], model_classes: Sequence[str]
) -> str:
    """Returns the name of merged classes: the dataset's, if exactly one class maps to them."""
    if len(group) == 1:
        return group[0]
    names = [name for name, others in targets.items() if set(others) == set(group)]
    taken = set(model_classes) - set(group)
    return names[0] if len(names) == 1 and names[0] not in taken else " + ".join(group)
