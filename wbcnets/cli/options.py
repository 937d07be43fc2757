"""The options that several commands share: one name, one meaning and one help text each."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wbcnets.data.cells.cutting import DEFAULT_CONTEXT
from wbcnets.engine.precision import AMP_DTYPES
from wbcnets.evaluation.predictions import TTA_MODES

MAX_SEED = 2**32 - 1  # NumPy's


def at_least(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Returns an argparse type that accepts whole numbers from ``least`` to ``most``."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is out of range; it must be {least} or more")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be {most:,} or less")
        return value

    number.__name__ = "whole number"  # argparse names the type when the text is no number
    return number


def probability(text: str) -> float:
    """Returns a number in [0, 1]; an argparse type."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range; it must lie in [0, 1]")
    return value


_OPTIONS: dict[str, dict[str, Any]] = {
    "weights": {
        "required": True,
        "metavar": "NAME_OR_FILE",
        "help": "a shipped model's name, or a checkpoint of a training",
    },
    "input": {
        "required": True,
        "nargs": "+",
        "metavar": "PATH",
        "help": "images, folders, zips, .txt lists of files, or quoted patterns such as 'x/*.png'",
    },
    "output": {"type": Path, "metavar": "FOLDER", "help": "the folder to write"},
    "data": {
        "metavar": "NAME_OR_PATH",
        "help": "the name of a prepared dataset, or the path of a folder, manifest or table",
    },
    "config": {"default": "", "metavar": "NAME_OR_FILE", "help": "a preset's name or a YAML file"},
    "threshold": {
        "type": probability,
        "default": None,
        "help": "the lowest score that counts as a detection, in [0, 1] (default: one per class, "
        "chosen after the training, or else 0.3)",
    },
    "device": {"default": "auto", "help": "auto (a GPU if there is one), cpu, cuda or cuda:1"},
    "batch-size": {"type": at_least(1), "default": 64, "help": "images per batch"},
    "workers": {"type": at_least(0), "default": 2, "help": "processes that load images"},
    "seed": {
        "type": at_least(0, MAX_SEED),
        "default": 0,
        "help": "the seed; equal seeds give equal results",
    },
    "tta": {
        "choices": TTA_MODES,
        "default": "none",
        "help": "test-time augmentation: average over mirrored (flips) or also rotated (d4) images",
    },
    "amp": {
        "choices": tuple(AMP_DTYPES),
        "default": "none",
        "help": "the type of automatic mixed precision",
    },
    "context": {
        "type": float,
        "default": DEFAULT_CONTEXT,
        "help": "of cells in boxes: the side of a crop over the longer side of its box",
    },
    "resume": {"action": "store_true", "help": "continue the training in the output folder"},
}


def add_option(parser: argparse.ArgumentParser, name: str, **changes: Any) -> None:
    """Adds a shared option.

    Args:
        parser: The command's parser.
        name: The option without its dashes, such as "batch-size".
        changes: Keywords of ``add_argument`` that differ from those all commands share.
    """
    parser.add_argument(f"--{name}", **{**_OPTIONS[name], **changes})
