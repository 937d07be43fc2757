"""A classifier on a data set of other classes: a map from the set's classes to the model's.

A file has a line a class of the set, ``ig: IG``. Several classes of the set may map onto one of
the model, and one class of the set onto several of the model, ``neutrophil: [band, segmented]``,
whose probabilities are then added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from wbcnets.data.cells.manifest import CellManifest
from wbcnets.errors import DataError
from wbcnets.evaluation.predictions import Predictions

ClassMap = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class ClassMatch:
    """The classes in which a model is judged on a data set.

    Attributes:
        class_names: M names: the model's classes, those that are judged as one under one name.
        data_places: For each of the set's classes its place in `class_names`, or None.
        model_places: The same for each of the model's classes.
    """

    class_names: tuple[str, ...]
    data_places: tuple[int | None, ...]
    model_places: tuple[int, ...]

    def select(self, manifest: CellManifest) -> tuple[CellManifest, dict[str, int]]:
        """The images that have a class of the model, and how many of each other class are left out.

        Raises:
            DataError: No image is left.
        """
        counts: dict[str, int] = {}
        images = []
        for image in manifest.images:
            place = self.data_places[image.label]
            if place is None:
                name = manifest.class_names[image.label]
                counts[name] = counts.get(name, 0) + 1
            else:
                images.append(replace(image, label=place))
        if not images:
            raise DataError(
                f"{manifest.name}: no image has a class that the class map names, only "
                f"{', '.join(counts) or 'nothing'}"
            )
        return replace(manifest, class_names=self.class_names, images=tuple(images)), counts

    def merge(self, predictions: Predictions) -> Predictions:
        """Predictions of the model, (N, K), in these classes, (N, M); labels stay as they are."""
        shares = np.zeros((len(predictions.files), len(self.class_names)))
        for column, place in enumerate(self.model_places):
            shares[:, place] += predictions.probabilities[:, column]
        return replace(predictions, class_names=self.class_names, probabilities=shares)


def match_classes(
    data_classes: Sequence[str], model_classes: Sequence[str], class_map: ClassMap | None = None
) -> ClassMatch:
    """Matches a data set's classes with a model's.

    Args:
        data_classes: The set's class names.
        model_classes: The model's class names.
        class_map: A name to one or several; None where both have the same names, in whatever order.

    Raises:
        DataError: Without a map the names differ; with one, a name is unknown, or two classes of
            the set share a part of the model's classes.
    """
    if class_map is None:
        if set(data_classes) != set(model_classes):
            raise DataError(
                "the data set and the model have different classes; say with --class-map which are "
                "the same",
                [f"data set: {', '.join(data_classes)}", f"model: {', '.join(model_classes)}"],
            )
        class_map = {name: name for name in data_classes}
    targets = {name: _as_tuple(value) for name, value in class_map.items()}
    problems = _find_problems(data_classes, model_classes, targets)
    if problems:
        raise DataError("the class map cannot be used", problems)
    group_of = {name: group for group in targets.values() for name in group}
    groups = list(dict.fromkeys(group_of.get(name, (name,)) for name in model_classes))
    return ClassMatch(
        class_names=tuple(_group_name(group, targets, model_classes) for group in groups),
        data_places=tuple(
            groups.index(group_of[targets[name][0]]) if name in targets else None
            for name in data_classes
        ),
        model_places=tuple(groups.index(group_of.get(name, (name,))) for name in model_classes),
    )


def read_class_map(path: Path) -> dict[str, str | tuple[str, ...]]:
    """Reads a YAML file of ``class of the data set: class of the model, or a list of them``.

    Names are taken as they are written, so that ``1`` and ``no`` are names like others.

    Raises:
        DataError: It is something else.
    """
    try:
        content = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no readable YAML ({error})") from error
    if not isinstance(content, yaml.MappingNode) or not content.value:
        raise DataError(f"{path}: must map class names to class names, a line each: 'ig: IG'")
    names: dict[str, str | tuple[str, ...]] = {}
    problems = []
    for key, value in content.value:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        line = f"line {key.start_mark.line + 1}"
        if not all(isinstance(node, yaml.ScalarNode) and node.value for node in (key, *parts)):
            problems.append(f"{line}: must be NAME: NAME or NAME: [NAME, NAME]")
        elif key.value in names:
            problems.append(f"{line}: {key.value!r} is mapped twice; write one line with a list")
        else:
            found = tuple(str(node.value) for node in parts)
            names[str(key.value)] = found if isinstance(value, yaml.SequenceNode) else found[0]
    if problems:
        raise DataError(f"{path}: is no class map", problems)
    return names


def _as_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _find_problems(
    data_classes: Sequence[str],
    model_classes: Sequence[str],
    targets: Mapping[str, tuple[str, ...]],
) -> list[str]:
    problems = [
        f"{name!r} is no class of the data set ({', '.join(data_classes)})"
        for name in targets
        if name not in data_classes
    ]
    known = ", ".join(model_classes)
    for name, group in targets.items():
        unknown = [target for target in group if target not in model_classes]
        problems += [f"{target!r} is no class of the model ({known})" for target in unknown]
        if not group or len(set(group)) < len(group):
            problems.append(f"{name!r}: maps to {list(group)}; name each class of the model once")
    first: dict[str, str] = {}
    for name, group in targets.items():
        for target in group:
            other = first.setdefault(target, name)
            if set(targets[other]) != set(group):
                problems.append(
                    f"{other!r} and {name!r} share {target!r}, but not all of their classes of the "
                    "model; give both the same list"
                )
    return list(dict.fromkeys(problems))


def _group_name(
    group: tuple[str, ...], targets: Mapping[str, tuple[str, ...]], model_classes: Sequence[str]
) -> str:
    """Classes of the model that are judged as one have the set's name where there is just one."""
    if len(group) == 1:
        return group[0]
    names = [name for name, others in targets.items() if set(others) == set(group)]
    taken = set(model_classes) - set(group)
    return names[0] if len(names) == 1 and names[0] not in taken else " + ".join(group)
