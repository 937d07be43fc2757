"""Activations by timm's names."""

from timm.layers import get_act_layer
from torch import nn

from wbcnets.errors import ConfigError


def find_activation(act_layer: str | type[nn.Module]) -> type[nn.Module]:
    """A class of activations as it is, or by timm's name for it, such as "gelu" or "relu".

    Raises:
        ConfigError: There is no such name.
    """
    try:
        found = get_act_layer(act_layer)
    except KeyError:
        found = None
    if found is None:
        raise ConfigError(
            f"act_layer={act_layer!r}: use a class, or one of timm's names: 'gelu', 'relu', 'silu'"
        )
    return found
