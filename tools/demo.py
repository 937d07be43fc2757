#!/usr/bin/env python
"""Generates smears, fine-tunes MFDS-DETR on them, evaluates it, predicts and draws.

Needs no GPU, no network and no data. ``make demo`` runs it; the results are in output/demo.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from wbcnets.synthetic.smears import write_smear_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = REPOSITORY / "projects" / "mfds_detr"


def run(title: str, *command: object) -> None:
    """Runs one of the project's commands as a user would type it."""
    words = [str(word) for word in command]
    print(f"\n=== {title}\n$ python {' '.join(words)}\n", flush=True)
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True)


def main() -> None:
    """Runs all steps, and prints the results and their files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=REPOSITORY / "output" / "demo", help="the folder to write")
    add("--train-images", type=int, default=160, help="training images (default: %(default)s)")
    add("--test-images", type=int, default=40, help="test images (default: %(default)s)")
    add("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()
    start = time.monotonic()
    output = args.output.resolve()
    training = output / "training"
    if training.exists():
        raise SystemExit(f"error: {training}: is from an earlier demo; remove it, or use --output")

    print(f"=== Generating {args.train_images} + {args.test_images} smears", flush=True)
    sets = {"smears_train": (args.train_images, 1), "smears_val": (args.test_images, 2)}
    datasets: list[object] = []
    for name, (count, seed) in sets.items():
        annotations = write_smear_dataset(output / name, count, seed=seed, workers=2)
        datasets += ["--dataset", f"{name}={annotations}:{annotations.parent / 'images'}"]

    run(
        "Fine-tuning MFDS-DETR, then COCO AP on the held-out smears",
        PROJECT / "train_net.py",
        *("--config-file", PROJECT / "configs" / "mfds_detr_tiny_demo.yaml"),
        *datasets,
        *("OUTPUT_DIR", training, *args.opts),
    )
    run(
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


if __name__ == "__main__":
    main()
