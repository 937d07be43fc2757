#!/usr/bin/env python
"""Turns a training checkpoint into a small file of weights: safetensors in half precision.

Takes the moving average where there is one, and leaves optimizer and progress behind. The class
names travel in the file, so that predict.py needs nothing but its config.

Example: python projects/mfds_detr/export_weights.py output/mine/model_best.pth mine.safetensors
"""

import argparse
from pathlib import Path

import torch

from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import read_checkpoint, write_weights


def export(source: Path, target: Path, dtype: torch.dtype) -> int:
    """Writes the weights of a checkpoint; returns the file's size in bytes.

    Raises:
        CheckpointError: The checkpoint cannot be read, names no classes, or a weight overflows.
    """
    checkpoint = read_checkpoint(source)
    names = list(checkpoint.get("class_names", ()))
    if not names:
        raise CheckpointError(f"{source}: names no classes; is it a checkpoint of train_net.py?")
    write_weights(target, checkpoint.get("ema") or checkpoint["model"], names, dtype)
    return target.stat().st_size


def main() -> None:
    """Reads the command line and exports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a checkpoint of train_net.py (.pth)")
    parser.add_argument("target", type=Path, help="the file to write (.safetensors)")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    args = parser.parse_args()
    try:
        size = export(args.source, args.target, getattr(torch, args.dtype))
    except CheckpointError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
