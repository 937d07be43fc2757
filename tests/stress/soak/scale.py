"""Lengths of the tests in this folder: short by default, full with `make soak`."""

import os

LONG = os.environ.get("WBCNETS_SOAK", "0") != "0"


def scaled(short: int, long: int) -> int:
    """Returns the number of repetitions."""
    return long if LONG else short
