#!/usr/bin/env python
"""Turns a training checkpoint into a small file of weights: safetensors in half precision.

Takes the moving average where there is one, and leaves optimizer and progress behind. The class
names travel in the file, so that predict.py needs nothing but its config.

Example: python projects/mfds_detr/export_weights.py output/mine/model_best.pth mine.safetensors
"""

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch

from wbcnets.errors import CheckpointError
from wbcnets.io.atomic_files import write_with_digest
from wbcnets.io.checkpoints import read_checkpoint


def export(source: Path, target: Path, dtype: torch.dtype) -> int:
    """Writes the weights of a checkpoint; returns the file's size in bytes.

    Raises:
        CheckpointError: The checkpoint cannot be read, names no classes, or a weight overflows.
    """
    checkpoint = read_checkpoint(source)
    names = list(checkpoint.get("class_names", ()))
    if not names:
        raise CheckpointError(f"{source}: names no classes; is it a checkpoint of train_net.py?")
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in (checkpoint.get("ema") or checkpoint["model"]).items()
    }
    lost = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if lost:
        raise CheckpointError(f"{source}: {', '.join(lost[:5])} overflow in {dtype}; use float32")
    # safetensors refuses tensors that share memory, as the heads of all layers may
    state = {name: tensor.clone() for name, tensor in state.items()}
    data = safetensors.torch.save(state, metadata={"class_names": json.dumps(names)})
    write_with_digest(target, lambda file: file.write(data))
    return len(data)


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
