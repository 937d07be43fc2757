"""Schemas of values from files: plain data of sizes that make sense, and messages for others."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from wbcnets.errors import ConfigError

# The images of a classifier: the side in px, mean and std of a channel in [0, 1]
Side = Annotated[int, Field(ge=8, le=4096)]
Mean = Annotated[float, Field(ge=0, le=1)]
Std = Annotated[float, Field(ge=1e-3, le=1)]

# The smallest learning rate, factor or limit that changes anything, beside 0
MIN_POSITIVE = 1e-9
MAX_LIMIT = 1_000_000
MAX_NUMBER = 1 << 16
# Smaller numbers are 0, or lose digits, in float32
_MIN_NUMBER = 1e-37
_MAX_LENGTH = 1000
_MAX_DEPTH = 4
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20


def check_plain(value: Any, origin: str, max_number: int = MAX_NUMBER, depth: int = 0) -> None:
    """Checks that a value from a file is plain data.

    Args:
        value: The value.
        origin: Names it in messages, such as "model.kwargs.depth".
        max_number: The largest absolute value of a number.
        depth: Containers around the value.

    Raises:
        ConfigError: if it holds other types, infinite, huge or vanishing numbers, or is too
            long or deep.
    """
    if isinstance(value, (list, tuple, dict)):
        if depth > _MAX_DEPTH or len(value) > _MAX_LENGTH:
            raise ConfigError(f"{origin}: is nested too deeply or longer than {_MAX_LENGTH:,}")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            check_plain(item, f"{origin}.{key}", max_number, depth + 1)
    elif isinstance(value, str):
        if len(value) > _MAX_LENGTH:
            raise ConfigError(f"{origin}: is a text of {len(value):,} characters")
    elif isinstance(value, (int, float)):
        # Not abs(): it would first turn a huge whole number into a float
        if not -max_number <= value <= max_number or not math.isfinite(value):
            raise ConfigError(f"{origin}={value} is out of range; use at most {max_number:,}")
        if 0 < abs(value) < _MIN_NUMBER:
            raise ConfigError(f"{origin}={value} is too small to count; use 0")
    elif value is not None:
        raise ConfigError(
            f"{origin} is a {type(value).__name__}; use numbers, texts, true, false, lists or maps"
        )


def describe_violations(
    error: ValidationError,
    given: Mapping[str, Any],
    suggest: Callable[[str], str] = lambda key: "remove it",
) -> Iterator[str]:
    """Yields one line for each value that breaks a schema: its key, the value and the rule.

    Args:
        error: The violations.
        given: The data.
        suggest: Returns a hint for an unknown key.
    """
    return (_describe(detail, given, suggest) for detail in error.errors())


def _describe(detail: Any, given: Mapping[str, Any], suggest: Callable[[str], str]) -> str:
    key, value = _dotted_key(detail["loc"], given), _SHORT.repr(detail["input"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {suggest(key)}"
    if detail["type"] == "missing":
        return f"{'.'.join(map(str, detail['loc']))} is missing"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "model_type":
        return f"{key}={value} should be a section of keys"
    return f"{key}={value} {detail['msg'].removeprefix('Input ')}"


def _dotted_key(location: Sequence[int | str], given: Any) -> str:
    """Joins a location without the members of unions, which pydantic inserts."""
    key, inner = "", given
    for part in location:
        if isinstance(inner, Mapping) and part in inner:
            key = f"{key}.{part}" if key else str(part)
        elif isinstance(inner, (list, tuple)) and isinstance(part, int):
            key = f"{key}[{part}]"
        else:
            continue
        inner = inner[part]
    return key
