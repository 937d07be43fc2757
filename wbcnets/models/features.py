"""Which intermediate maps a caller of ``forward_intermediates`` wants."""

from collections.abc import Sequence

from wbcnets.errors import ConfigError


def take_indices(levels: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Resolves timm's way to name levels into their places, and the largest of these.

    Args:
        levels: How many levels there are.
        indices: All levels where None, the last n where a number, else places, negative ones from
            the end.

    Raises:
        ConfigError: A level that is asked for does not exist.
    """
    if indices is None:
        places = list(range(levels))
    elif isinstance(indices, int):
        places = list(range(levels - indices, levels))
    else:
        places = [index + levels if index < 0 else index for index in indices]
    if not places or min(places) < 0 or max(places) >= levels:
        raise ConfigError(
            f"feature indices {indices}: this model has {levels} levels; use places from "
            f"{-levels} to {levels - 1}, or how many of the last ones, from 1 to {levels}"
        )
    return places, max(places)
