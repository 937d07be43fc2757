#!/usr/bin/env python
"""Generates smears, fine-tunes MFDS-DETR on them, evaluates it, predicts and draws.

Needs no GPU, no network and no data. ``make demo`` runs it; the results are in output/demo.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from wbcnets.cli.main import run_command
from wbcnets.cli.options import add_option, at_least
from wbcnets.errors import ConfigError, ProcessError
from wbcnets.synthetic.smears import write_smear_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = REPOSITORY / "projects" / "mfds_detr"


def run_script(title: str, *command: object) -> None:
    """Runs one of the project's commands as a user would type it.

    Raises:
        ProcessError: if it fails.
    """
    words = [str(word) for word in command]
    print(f"\n=== {title}\n$ python {' '.join(words)}\n", flush=True)
    code = subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=False).returncode
    if code:
        raise ProcessError(
            f"{Path(words[0]).name} ended with exit code {code}; its output says why"
        )


def default_folders() -> Iterator[Path]:
    """Yields output/demo, output/demo_2, output/demo_3, ..."""
    folder = REPOSITORY / "output" / "demo"
    yield folder
    yield from (folder.with_name(f"demo_{number}") for number in count(2))


def is_new(folder: Path) -> bool:
    """Returns whether a folder holds no training of an earlier demo."""
    return not (folder / "training").exists()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the demo."""
    default = "the folder to write (default: output/demo, or demo_2, ...)"
    add_option(parser, "output", help=default)
    add = parser.add_argument
    add("--train-images", type=at_least(1), default=160, help="training images")
    add("--test-images", type=at_least(1), default=40, help="test images")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")


def run(args: argparse.Namespace) -> int:
    """Runs all steps, and prints the results and their files.

    Raises:
        WbcnetsError: if the folder holds an earlier demo, or a step fails.
    """
    start = time.monotonic()
    output = args.output.resolve() if args.output else next(filter(is_new, default_folders()))
    if not is_new(output):
        raise ConfigError(f"{output}: holds an earlier demo; name another folder", setting="output")
    training = output / "training"

    print(f"=== Generating {args.train_images} + {args.test_images} smears", flush=True)
    sets = {"smears_train": (args.train_images, 1), "smears_val": (args.test_images, 2)}
    datasets: list[object] = []
    for name, (images, seed) in sets.items():
        annotations = write_smear_dataset(output / name, images, seed=seed, workers=2)
        datasets += ["--dataset", f"{name}={annotations}:{annotations.parent / 'images'}"]

    run_script(
        "Fine-tuning MFDS-DETR, then COCO AP on the held-out smears",
        PROJECT / "train_net.py",
        *("--config-file", PROJECT / "configs" / "mfds_detr_tiny_demo.yaml"),
        *datasets,
        *("OUTPUT_DIR", training, *args.opts),
    )
    run_script(
        "Predicting on the held-out smears",
        PROJECT / "predict.py",
        *("--weights", training / "model_best.pth"),
        *("--input", output / "smears_val" / "images"),
        *("--output", output / "predictions"),
    )
    metrics = json.loads((training / "evaluation.json").read_text())["results"]["smears_val"]
    minutes = (time.monotonic() - start) / 60
    print(
        f"\nDone in {minutes:.1f} minutes: held-out AP {metrics['AP']:.1f}, "
        f"AP50 {metrics['AP50']:.1f}\n"
        f"  predictions drawn  {training / 'predictions_smears_val.png'}\n"
        f"  images and counts  {output / 'predictions'}\n"
        f"  training curves    {training / 'curves.png'}\n"
        f"  AP per class       {training / 'evaluation.md'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
