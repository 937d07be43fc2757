"""White-blood-cell networks: layers, losses, data and models for leukocytes in blood smears.

Importing the package registers its classifiers in timm, so that ``timm.create_model`` knows their
names. The functions of ``wbcnets.api`` are attributes of the package, imported on first use.
"""

from typing import TYPE_CHECKING, Any

from timm import create_model

from wbcnets.models import list_models
from wbcnets.version import __version__

if TYPE_CHECKING:
    from wbcnets.api import (
        check,
        evaluate,
        load_classifier,
        load_detector,
        train_classifier,
        train_detector,
    )

__all__ = [
    "__version__",
    "check",
    "create_model",
    "evaluate",
    "list_models",
    "load_classifier",
    "load_detector",
    "train_classifier",
    "train_detector",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wbcnets import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
