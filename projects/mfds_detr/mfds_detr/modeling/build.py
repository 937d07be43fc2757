"""Builds the detector of a config, within a limit of size."""

from functools import partial

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from wbcnets.engine.memory import is_oom
from wbcnets.errors import ConfigError, WbcnetsError
from wbcnets.models.limits import ModelLimit, build_limited


def build_detector(cfg: CfgNode, limit: ModelLimit) -> nn.Module:
    """Returns the model of a config on its device.

    Args:
        cfg: The config.
        limit: The most that the model may hold.

    Raises:
        ConfigError: if the config names another architecture, the model cannot be built from it, or
            it is larger than the limit.
    """
    if cfg.MODEL.META_ARCHITECTURE != "MFDSDETR":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE={cfg.MODEL.META_ARCHITECTURE!r}: use MFDSDETR, or start from "
            "a config of the project, such as mfds_detr_tiny_base",
            setting="config_file",
        )
    try:
        return build_limited(partial(build_model, cfg), limit)
    except WbcnetsError:
        raise
    # A model that gets odd values raises whatever they lead it to
    except Exception as error:
        if is_oom(error):
            raise
        raise ConfigError(
            f"the model cannot be built with the values below MODEL in the config "
            f"({type(error).__name__}: {error})",
            setting="config_file",
        ) from error
