"""Keywords of optimizers that come from a config, checked against the optimizer's signature."""

import inspect
import json
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError
from timm.optim import create_optimizer_v2, get_optimizer_class

from wbcnets.errors import ConfigError
from wbcnets.train.config import OptimizerConfig

# Parameters of timm's factory that a config may set, beside those of the optimizer's class
_FACTORY = {
    "filter_bias_and_bn",
    "foreach",
    "layer_decay_min_scale",
    "layer_decay_no_opt_scale",
}
# The parameters that have their own place, and switches that turn a training into something else
_REFUSED = {
    *("self", "params", "lr", "weight_decay", "momentum"),
    *("maximize", "differentiable", "capturable"),
}


def check_optimizer_keywords(config: OptimizerConfig) -> dict[str, Any]:
    """Returns the keywords for ``create_optimizer_v2`` that a config sets, ``betas`` among them.

    Raises:
        ConfigError: if a keyword is unknown to the optimizer, or its value is of another type or
            sign.
    """
    given = dict(config.kwargs)
    if config.betas is not None:
        given["betas"] = config.betas
    # timm takes prefixes such as lookahead_
    optimizer_class = get_optimizer_class(config.name.lower().split("_")[-1], bind_defaults=False)
    known = {
        **{name: value for name, value in _parameters(create_optimizer_v2) if name in _FACTORY},
        **{name: value for name, value in _parameters(optimizer_class) if name not in _REFUSED},
    }
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} cannot be set for it; it has {', '.join(sorted(known))}"
        )
    return {key: _check_value(key, value, *known[key]) for key, value in given.items()}


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yields the name, the type and the default of each parameter."""
    method: Any = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(method)
    for name, parameter in inspect.signature(method).parameters.items():
        default = parameter.default
        yield name, (hints.get(name, _type_of(default)), default)


def _type_of(default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple.__class_getitem__(tuple(map(_type_of, default)))
    # A default of 0 often stands for 0.0
    return float if type(default) is int else type(default)


def _check_value(key: str, value: Any, kind: Any, default: Any) -> Any:
    try:
        # As JSON, so that lists may be tuples and whole numbers fractions, but nothing else changes
        checked = TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_json(
            json.dumps(value), strict=True
        )
    # Older pydantic has no answer in JSON for the classes that a parameter may also take
    except (ValidationError, NotImplementedError) as error:
        raise ConfigError(f"{key}={value!r} should look like the default, {default!r}") from error
    if any(number < 0 for number in _numbers(value)) and all(n >= 0 for n in _numbers(default)):
        raise ConfigError(f"{key}={value!r} should not be below 0; the default is {default!r}")
    return checked


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
