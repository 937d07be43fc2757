"""Necks by name: MFDS-DETR's HS-FPN and its rivals of table 6."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from wbcnets.errors import ConfigError
from wbcnets.layers.necks.base import PyramidNeck
from wbcnets.layers.necks.bifpn import BiFPN
from wbcnets.layers.necks.channel_mapper import ChannelMapper
from wbcnets.layers.necks.fapn import FaPN
from wbcnets.layers.necks.fpn import FPN
from wbcnets.layers.necks.hs_fpn import HSFPN
from wbcnets.layers.necks.pafpn import PAFPN

Neck = TypeVar("Neck", bound=PyramidNeck)
# Name -> class and fixed options; callers cannot set those again
_NECKS: dict[str, tuple[type[PyramidNeck], dict[str, Any]]] = {
    "bifpn": (BiFPN, {}),
    "channel_mapper": (ChannelMapper, {}),
    "fapn": (FaPN, {}),
    "fpn": (FPN, {}),
    "hs_fpn": (HSFPN, {}),
    "hs_fpn_bilinear": (HSFPN, {"upsample": "bilinear"}),
    "hs_fpn_top": (HSFPN, {"cascade": "top"}),
    "pafpn": (PAFPN, {}),
}


def register_neck(name: str) -> Callable[[type[Neck]], type[Neck]]:
    """Returns a class decorator that makes a neck known to ``create_neck``.

    Args:
        name: A new name.

    Raises:
        ConfigError: if the name is taken.
    """

    def register(neck: type[Neck]) -> type[Neck]:
        if name in _NECKS:
            raise ConfigError(f"neck {name!r} is registered already; choose another name")
        _NECKS[name] = (neck, {})
        return neck

    return register


def neck_names() -> list[str]:
    """Returns the names that ``create_neck`` knows, sorted."""
    return sorted(_NECKS)


def create_neck(
    name: str, in_channels: Sequence[int], out_channels: int = 256, **options: Any
) -> PyramidNeck:
    """Returns a neck by its name.

    It takes the backbone's maps and returns as many maps of ``out_channels`` channels, or more with
    extra levels of "channel_mapper".

    Args:
        name: One of ``neck_names()``.
        in_channels: Channels of each backbone map, highest resolution first.
        out_channels: Channels of every output map.
        options: Keyword arguments of the neck's class, including ``device`` and ``dtype``.

    Raises:
        ConfigError: if the name or an option is unknown, or a value is out of range.
    """
    if name not in _NECKS:
        raise ConfigError(f"unknown neck {name!r}; choose one of {', '.join(neck_names())}")
    neck, fixed = _NECKS[name]
    parameters = inspect.signature(neck).parameters
    valid = sorted(set(parameters) - {"in_channels", "out_channels"} - set(fixed))
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ConfigError(
            f"neck {name!r} has no option {', '.join(unknown)}; it takes {', '.join(valid)}"
        )
    arguments: dict[str, Any] = {**fixed, **options}
    return neck(in_channels, out_channels, **arguments)
