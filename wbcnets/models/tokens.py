"""How tokens are pooled, and which formats can be asked for."""

from torch import Tensor

from wbcnets.errors import ConfigError

GLOBAL_POOLS = ("token", "avg", "max", "avgmax", "")


def pool_tokens(tokens: Tensor, global_pool: str) -> Tensor:
    """The class token, or the others pooled: (B, 1 + N, C) -> (B, C); unchanged where ""."""
    if global_pool == "":
        return tokens
    if global_pool == "token":
        return tokens[:, 0]
    patches = tokens[:, 1:]
    if global_pool == "avg":
        return patches.mean(dim=1)
    if global_pool == "max":
        return patches.amax(dim=1)
    return 0.5 * (patches.mean(dim=1) + patches.amax(dim=1))


def check_global_pool(global_pool: str) -> str:
    """Returns the name of the pooling.

    Raises:
        ConfigError: There is no such pooling.
    """
    if global_pool not in GLOBAL_POOLS:
        raise ConfigError(f"global_pool={global_pool!r}: use one of {list(GLOBAL_POOLS)}")
    return global_pool


def check_output_format(output_fmt: str) -> None:
    """Accepts "NCHW" and "NLC".

    Raises:
        ConfigError: It is another format.
    """
    if output_fmt not in ("NCHW", "NLC"):
        raise ConfigError(f"output_fmt={output_fmt!r}: use 'NCHW' for maps or 'NLC' for rows")
