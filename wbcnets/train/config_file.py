"""Reads settings from YAML files, presets and KEY=VALUE overrides; unknown keys are errors."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from wbcnets.errors import ConfigError, list_problems
from wbcnets.io.atomic_files import write_text
from wbcnets.io.schema import describe_violations
from wbcnets.io.strict_yaml import StrictLoader, read_yaml
from wbcnets.train.config import TrainConfig

PRESET_FOLDER = Path(__file__).parent / "presets"


class _Loader(StrictLoader):
    """Reads values as people mean them: 8:2 and no are text, and 1e-3 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0].rpartition(":")[2] in ("null", "merge")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_DIGITS = list("-+0123456789.")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), _DIGITS
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|nan)$"
    ),
    _DIGITS,
)


def preset_names() -> list[str]:
    """Returns the names of the presets that come with the library."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def load_config(source: str | Path = "", overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads settings.

    Args:
        source: A preset's name or a YAML file; empty for the defaults.
        overrides: ``KEY=VALUE`` each, such as ``optimizer.lr=1e-3`` or ``model.kwargs.depth=3``;
            values are YAML. They take precedence over the file.

    Raises:
        ConfigError: if the file cannot be read, or keys or values are wrong; lists all of them.
    """
    settings = _read_file(_find_file(source)) if str(source) else {}
    for override in overrides:
        _apply(settings, override)
    return build_config(settings, str(source) or "the defaults")


def build_config(settings: Mapping[str, Any], origin: str) -> TrainConfig:
    """Returns the settings that a mapping describes, as a YAML file holds it.

    Args:
        settings: The keys that differ from the defaults, in sections.
        origin: Source of the mapping, for messages.

    Raises:
        ConfigError: if keys or values are wrong; lists all of them.
    """
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        violations = describe_violations(error, settings, _suggest)
        lines = [f"wrong settings in {origin} or its overrides:"]
        lines += list_problems(violations, error.error_count())
        raise ConfigError("\n".join(lines)) from error


def save_config(config: TrainConfig, path: Path) -> None:
    """Writes all settings, defaults included."""
    write_text(path, dump_config(config))


def dump_config(config: TrainConfig) -> str:
    """Returns all settings as YAML."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def known_keys(section: type[BaseModel] = TrainConfig, prefix: str = "") -> list[str]:
    """Returns all dotted keys, such as "optimizer.lr"."""
    keys = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _find_file(source: str | Path) -> Path:
    path = Path(source)
    if os.path.isfile(path):
        return path
    preset = PRESET_FOLDER / f"{source}.yaml"
    if len(path.parts) == 1 and os.path.isfile(preset):
        return preset
    raise ConfigError(
        f"{source}: neither a file nor a preset; presets are {', '.join(preset_names())}",
        setting="config",
    )


def _read_file(path: Path) -> dict[str, Any]:
    settings = read_yaml(path, _Loader)
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds a {type(settings).__name__}, expected sections of keys")
    return settings


def text_override(key: str, text: str | os.PathLike[str]) -> str:
    """Returns KEY=VALUE for a text, such as a path, which YAML could take for something else.

    Args:
        key: The key, such as "data.source".
        text: Its value as it is: "a #1", "null" and "1e3" are texts, too.
    """
    marks = (
        c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in os.fspath(text)
    )
    return f'{key}="{"".join(marks)}"'


def _apply(settings: dict[str, Any], override: str) -> None:
    """Sets the value of ``KEY=VALUE`` in nested settings."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{override!r}: expected KEY=VALUE, such as training.epochs=10")
    try:
        value = yaml.load(text, _Loader)  # nosec B506
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML ({error})") from error
    section = settings
    for part in parts[:-1]:
        if not isinstance(section.get(part), dict):
            section[part] = {}
        section = section[part]
    # `data.source=` means an empty text, not null
    section[parts[-1]] = "" if text == "" else value


def _suggest(key: str) -> str:
    """Returns a hint: known keys that look like an unknown one, or those of its section."""
    known = known_keys()
    by_last = {"learning_rate": ["optimizer.lr"], "image_size": ["data.img_size"]}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    near = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=3, cutoff=0.6)
    suggestions = [name for match in near for name in by_last[match]]
    suggestions += difflib.get_close_matches(key, known, n=3, cutoff=0.85)
    if suggestions:
        return f"did you mean {' or '.join(list(dict.fromkeys(suggestions))[:4])}?"
    section = [name for name in known if name.startswith(key.rpartition(".")[0] + ".")]
    return f"known are {', '.join(section or TrainConfig.model_fields)}"
