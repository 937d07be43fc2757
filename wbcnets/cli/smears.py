"""Generates synthetic blood smears: images, exact boxes and COCO annotations.

Examples:
  wbcnets smears --output output/smears --images 100
      100 images that look like BCCD, with all seven classes of cells annotated
  wbcnets smears --output output/smears --images 2000 --classes leukocytes --workers 2
      the five classes of leukocytes only; red cells and platelets are drawn but not annotated
  wbcnets smears --output output/small --images 500 --size 320x240 --magnification 0.5
      the same field of view in a quarter of the pixels: quick to train on
  wbcnets smears --output output/mixed --images 500 --stain random --preview mixed.png
      a random stain per image, and a sheet of images with their boxes

The same arguments give the same files. A folder that this command wrote before is overwritten; any
other folder that is not empty is refused. An image of 640x480 px takes about 0.07 s on one core.
"""

import argparse
from pathlib import Path

from wbcnets.cli.options import add_option, at_least
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.preview import claim_preview, save_preview
from wbcnets.synthetic.smears import (
    DIFFERENTIALS,
    LEUKOCYTE_CLASSES,
    MAX_IMAGES,
    MAX_THREADS,
    SMEAR_CLASSES,
    SmearStyle,
    write_smear_dataset,
)

CLASSES = {"all": SMEAR_CLASSES, "leukocytes": LEUKOCYTE_CLASSES}
PREVIEW_IMAGES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets smears``."""
    style = SmearStyle()
    add = parser.add_argument
    add_option(parser, "output", required=True, help="the folder for images/ and annotations.json")
    add("--images", type=at_least(1, MAX_IMAGES), default=100, help="number of images")
    add_option(parser, "seed")
    add("--size", type=_size, default=(640, 480), help="WIDTHxHEIGHT in px (default: 640x480)")
    add(
        "--magnification",
        type=float,
        default=style.magnification,
        help="size of the cells; 1.0 is BCCD's, a red cell of 105 px",
    )
    add(
        "--stain",
        type=_stain,
        default=style.stain,
        help="wright, giemsa, may_grunwald, random, or a balance from 0.0 (eosin-pink) to 1.0"
        " (methylene-blue)",
    )
    add(
        "--red-cells",
        type=float,
        default=style.red_cells,
        help="mean number on 640x480 px at magnification 1.0",
    )
    add("--leukocytes", type=float, default=style.leukocytes, help="mean number per image")
    add(
        "--differential",
        choices=tuple(DIFFERENTIALS),
        default=style.differential,
        help="fractions of the leukocytes: all alike, or as in blood",
    )
    add("--classes", choices=tuple(CLASSES), default="all", help="the cells to annotate")
    add("--png", action="store_true", help="write lossless PNG instead of JPEG of quality 92")
    add_option(
        parser,
        "workers",
        type=at_least(0, MAX_THREADS),
        default=0,
        help="threads; the files do not depend on it",
    )
    add("--preview", type=Path, metavar="PNG", help="also write a sheet of images with boxes")


def run(args: argparse.Namespace) -> int:
    """Writes the dataset.

    Raises:
        ConfigError: if the style is out of range, or the folder holds other files.
    """
    if args.preview is not None:
        claim_preview(args.preview, setting="preview")
    width, height = args.size
    style = SmearStyle(
        height=height,
        width=width,
        stain=args.stain,
        magnification=args.magnification,
        red_cells=args.red_cells,
        leukocytes=args.leukocytes,
        differential=args.differential,
    )
    annotations = write_smear_dataset(
        args.output,
        args.images,
        seed=args.seed,
        style=style,
        classes=CLASSES[args.classes],
        workers=args.workers,
        suffix=".png" if args.png else ".jpg",
    )
    if args.preview is not None:
        save_preview(load_coco(annotations, args.output / "images"), args.preview, PREVIEW_IMAGES)
    print(annotations)
    return 0


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 640x480")
    return int(width), int(height)


def _stain(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
