"""The rule for resuming: the settings that decide the weights stay as they were."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings under dotted keys, such as "optimizer.lr"."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], changeable: Sequence[str]
) -> Iterator[str]:
    """Yields a line, such as "optimizer.lr: 0.1 then, 0.2 now", per change that is not allowed.

    Args:
        before: Flat settings of the run so far.
        now: Flat settings to continue with.
        changeable: Keys, or whole sections, that may differ.
    """
    for key in sorted(before.keys() | now.keys()):
        then, value = before.get(key), now.get(key)
        free = any(key == name or key.startswith(f"{name}.") for name in changeable)
        if then != value and not free:
            yield f"{key}: {then!r} then, {value!r} now"
