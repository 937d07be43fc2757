#!/usr/bin/env python
"""Finds and counts the cells in images with a trained MFDS-DETR.

  python projects/mfds_detr/predict.py --weights output/mine/model_best.pth --input smears \\
      --output output/predictions

writes predictions.json (COCO), counts.csv (cells per image and class) and overlays/ (pictures with
boxes). It ends with 0, with 1 when some images could not be read (all others are done, and
unreadable.csv lists them), and with 2 when nothing could be done.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mfds_detr.predictor import LeukocytePredictor, find_images, predict_files
from wbcnets.errors import WbcnetsError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="a checkpoint, such as model_best.pth")
    add("--config-file", metavar="FILE", help="its config (default: config.yaml beside it)")
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders of images, or patterns such as 'smears/*.png'",
    )
    add("--output", type=Path, default=Path("output/predictions"), metavar="FOLDER")
    add(
        "--threshold",
        type=float,
        default=0.3,
        help="the score from which a detection counts, 0 to 1 (default: %(default)s)",
    )
    add("--no-overlays", action="store_true", help="draw no pictures")
    add("--device", help="cpu or cuda (default: a GPU where there is one)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit status."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        files = find_images(args.input, leave_out=args.output)
        predictor = LeukocytePredictor(args.weights, args.config_file, args.device, args.threshold)
        unreadable = predict_files(predictor, files, args.output, not args.no_overlays)
    except (WbcnetsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(files) - unreadable} of {len(files)} images: {args.output}/counts.csv")
    if unreadable:
        print(
            f"error: could not read {unreadable} of {len(files)} images, "
            f"see {args.output}/unreadable.csv",
            file=sys.stderr,
        )
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
