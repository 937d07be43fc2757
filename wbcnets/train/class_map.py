"""A classifier on a data set of other classes: a map from the set's classes to the model's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from wbcnets.errors import DataError


def read_class_map(path: Path) -> dict[str, str]:
    """Reads a YAML file of ``class of the data set: class of the model``.

    Raises:
        DataError: It is something else.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no readable YAML ({error})") from error
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: must map class names to class names, a line each: 'ig: IG'")
    return {str(key): str(value) for key, value in content.items()}


def label_map(
    data_classes: Sequence[str],
    model_classes: Sequence[str],
    class_map: Mapping[str, str] | None = None,
) -> dict[int, int]:
    """Places of the data set's classes to places of the model's; classes without one are left out.

    Args:
        data_classes: The set's class names.
        model_classes: The model's class names.
        class_map: Names to names; None where both have the same names, in whatever order.

    Raises:
        DataError: Without a map the names differ; with one, a name is unknown.
    """
    if class_map is None:
        if set(data_classes) != set(model_classes):
            raise DataError(
                "the data set and the model have different classes; say with --class-map which are "
                "the same",
                [f"data set: {', '.join(data_classes)}", f"model: {', '.join(model_classes)}"],
            )
        class_map = {name: name for name in data_classes}
    problems = [
        f"{name!r} is no class of the data set ({', '.join(data_classes)})"
        for name in class_map
        if name not in data_classes
    ]
    problems += [
        f"{name!r} is no class of the model ({', '.join(model_classes)})"
        for name in class_map.values()
        if name not in model_classes
    ]
    if problems:
        raise DataError("the class map has unknown names", problems)
    return {
        place: list(model_classes).index(class_map[name])
        for place, name in enumerate(data_classes)
        if name in class_map
    }
