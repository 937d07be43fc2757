"""Settings from YAML files and presets, with overrides KEY=VALUE; unknown keys are errors."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wbcnets.errors import ConfigError
from wbcnets.io.strict_yaml import StrictLoader, read_yaml
from wbcnets.train.config import TrainConfig, check_values


class _Loader(StrictLoader):
    """Reads numbers as people write them: 8:2 is text, not 482, and 1e-3 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0].rpartition(":")[2] in ("bool", "null", "merge")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
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

PRESET_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """The presets that come with the library."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def load_config(source: str | Path = "", overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads settings.

    Args:
        source: A preset's name or a YAML file; nothing for the defaults.
        overrides: ``KEY=VALUE`` each, such as ``optimizer.learning_rate=1e-3`` or
            ``model.kwargs.depth=3``; values are YAML. They go before the file.

    Raises:
        ConfigError: The file cannot be read, or keys or values are wrong; all are listed.
    """
    settings = _read_yaml(_find(source)) if str(source) else {}
    for override in overrides:
        _apply(settings, override)
    return build_config(settings, str(source) or "the defaults")


def build_config(settings: Mapping[str, Any], origin: str) -> TrainConfig:
    """Makes settings from a mapping as a YAML file holds it.

    Args:
        settings: What differs from the defaults.
        origin: Where it is from, for messages.

    Raises:
        ConfigError: Keys or values are wrong; all are listed.
    """
    problems: list[str] = []
    config = _build(TrainConfig, settings, "", problems)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"settings from {origin} and the overrides:\n{lines}")
    check_values(config)
    return config


def save_config(config: TrainConfig, path: Path) -> None:
    """Writes all settings, defaults included."""
    path.write_text(dump_config(config), encoding="utf-8")


def dump_config(config: TrainConfig) -> str:
    """All settings as YAML."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def known_keys() -> list[str]:
    """All dotted keys."""
    return _keys(TrainConfig, "")


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    preset = PRESET_FOLDER / f"{source}.yaml"
    if len(path.parts) == 1 and preset.is_file():
        return preset
    raise ConfigError(
        f"{source}: is neither a file nor a preset; presets are {', '.join(preset_names())}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    settings = read_yaml(path, _Loader)
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds a {type(settings).__name__}, expected sections of keys")
    return settings


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{override!r}: expected KEY=VALUE, such as training.epochs=10")
    try:
        value = yaml.load(text, _Loader)  # nosec B506
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is no YAML ({error})") from error
    inner = settings
    for part in parts[:-1]:
        if not isinstance(inner.get(part), dict):
            inner[part] = {}
        inner = inner[part]
    # `data.source=` means no text, not null
    inner[parts[-1]] = "" if text == "" else value


def _build(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')}={values!r}: expected a section of keys")
        return cls()
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            problems.append(_unknown(f"{prefix}{key}"))
            continue
        try:
            arguments[key] = _convert(value, hints[key], f"{prefix}{key}", problems)
        except ValueError as error:
            problems.append(str(error))
    return cls(**arguments)


def _convert(value: Any, hint: Any, key: str, problems: list[str]) -> Any:
    """A value as its field's type; what YAML 1.1 reads as text, such as 1e-3, is a number."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{key}.", problems)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in inner:
            try:
                return _convert(value, choice, key, problems)
            except ValueError:
                continue
    elif hint is type(None) and value is None:
        return None
    elif origin is list and isinstance(value, list | tuple):
        return [_convert(item, inner[0], f"{key}[{i}]", problems) for i, item in enumerate(value)]
    elif origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(v, inner[1], f"{key}.{k}", problems) for k, v in value.items()}
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _number(value, key)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{key}={value!r}: expected {_type_name(hint)}")


def _number(value: float | str, key: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key}={value!r}: expected a number") from None


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(choice) for choice in inner)
    if typing.get_origin(hint) is list:
        return f"a list, each {_type_name(inner[0])}"
    if typing.get_origin(hint) is dict:
        return "a section of keys"
    return {**names, float: "a number"}.get(hint, "a value")


def _unknown(key: str) -> str:
    known = known_keys()
    last = key.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    near = difflib.get_close_matches(last, by_last, n=3, cutoff=0.6)
    suggestions = [name for match in near for name in by_last[match]]
    suggestions += difflib.get_close_matches(key, known, n=3, cutoff=0.85)
    names = list(dict.fromkeys(suggestions))[:4]
    section = [name for name in known if name.startswith(key.rpartition(".")[0] + ".")]
    hint = f"did you mean {' or '.join(names)}?" if names else ""
    return f"{key}: unknown key; {hint or 'known are ' + ', '.join(section or known)}"


def _keys(cls: type, prefix: str) -> list[str]:
    keys = []
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            keys += _keys(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
