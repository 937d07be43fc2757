"""Messages for data that breaks a pydantic schema."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20


def describe_violations(
    error: ValidationError,
    given: Mapping[str, Any],
    suggest: Callable[[str], str] = lambda key: "remove it",
) -> list[str]:
    """Returns one line for each value that breaks a schema: its key, the value and the rule.

    Args:
        error: The violations.
        given: The data.
        suggest: Returns a hint for an unknown key.
    """
    return [_describe(detail, given, suggest) for detail in error.errors()]


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
