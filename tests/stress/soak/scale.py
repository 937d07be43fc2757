"""How long the long tests are: a short form by default, the whole by `make soak`."""

import os

LONG = os.environ.get("WBCNETS_SOAK", "0") != "0"


def scaled(short: int, long: int) -> int:
    """A number of repetitions."""
    return long if LONG else short
