"""Keywords of models that come from a file: a checkpoint, a saved folder or a configuration.

``timm.create_model`` takes more keywords than the model does. Some of them name files, hubs and
URLs to load from, so only a caller in Python may set those. A file may set the parameters of the
model's class, with plain values.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import timm
from timm.models import build_model_with_cfg, model_entrypoint
from torch import nn

from wbcnets.errors import ConfigError, WbcnetsError
from wbcnets.io.schema import check_plain
from wbcnets.models.factory import build_model
from wbcnets.models.limits import ModelLimit, build_limited

# The number of classes and the device have their own places in every file
_ELSEWHERE = {"self", "num_classes", "device", "dtype"}
# timm hands some of them on unchecked: a negative rate divides by the probability to keep
_DROP_RATE = re.compile(r"(\w+_)?drop(out)?(_\w+)?_rate|\w*drop_path|dropout")
_FACTORIES = (timm.create_model, build_model_with_cfg, build_model)


@cache
def allowed_keywords(name: str) -> frozenset[str]:
    """Returns the keywords that a file may set for a registered model.

    These are the parameters of the model classes in its module, without those of the factories.
    """
    module = sys.modules[model_entrypoint(name).__module__]
    parameters = {
        parameter
        for model_class in vars(module).values()
        if inspect.isclass(model_class) and issubclass(model_class, nn.Module)
        # Blocks and layers have no classifier
        if hasattr(model_class, "get_classifier")
        for base in model_class.__mro__
        if base is not nn.Module and "__init__" in vars(base)
        for parameter in inspect.signature(vars(base)["__init__"]).parameters
    }
    reserved = {p for factory in _FACTORIES for p in inspect.signature(factory).parameters}
    return frozenset(parameters - reserved - _ELSEWHERE - {"args", "kwargs"})


def check_keywords(name: str, keywords: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Returns keywords from a file for ``timm.create_model``.

    Args:
        name: A registered model.
        keywords: The keywords.
        origin: Names them in messages, such as "best.pth: architecture.kwargs".

    Raises:
        ConfigError: if a keyword is not in ``allowed_keywords``, its value is not plain data, or a
            rate of dropout is no probability.
    """
    allowed = allowed_keywords(name)
    refused = [str(key) for key in keywords if key not in allowed]
    if refused:
        raise ConfigError(
            f"{origin}: {name} has no parameter {', '.join(refused)} that a file may set; it may "
            f"set {', '.join(sorted(allowed))}"
        )
    for key, value in keywords.items():
        check_plain(value, f"{origin}.{key}")
        if _DROP_RATE.fullmatch(key) and value is not None and not _is_probability(value):
            raise ConfigError(f"{origin}.{key}={value!r} should be a probability in [0, 1)")
    return dict(keywords)


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def with_img_size(name: str, keywords: Mapping[str, Any], img_size: int) -> dict[str, Any]:
    """Returns keywords with the size of the images, if the model is built for one size."""
    cfg = timm.get_pretrained_cfg(name)
    sized = {"img_size": img_size} if cfg is not None and cfg.fixed_input_size else {}
    return {**sized, **keywords}


def create_checked(
    name: str,
    keywords: Mapping[str, Any],
    origin: str,
    limit: ModelLimit,
    num_classes: int,
    **weights: Any,
) -> nn.Module:
    """Returns ``timm.create_model`` of a registered model with keywords that come from a file.

    Args:
        name: A registered model.
        keywords: See ``check_keywords``.
        origin: Names the keywords in messages.
        limit: The most that the model may hold.
        num_classes: Number of classes.
        weights: Keywords of ``timm.create_model`` by which the caller, not the file, names weights.

    Raises:
        ConfigError: if a keyword is refused, or the model cannot be created with them.
    """
    checked = check_keywords(name, keywords, origin)
    try:
        build = partial(timm.create_model, name, num_classes=num_classes, **checked)
        return build_limited(build, limit, **weights)
    except (WbcnetsError, OSError):
        raise
    # A model that gets odd values raises whatever they lead it to
    except Exception as error:
        raise ConfigError(
            f"{origin}: {name} cannot be created with {checked} ({type(error).__name__}: {error})"
        ) from error
