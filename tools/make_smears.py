"""Make a dataset of synthetic blood smears: images, exact boxes and COCO annotations.

examples:
  python tools/make_smears.py --output output/smears --images 100
      100 images that look like BCCD, with all seven classes of cells annotated
  python tools/make_smears.py --output output/smears --images 2000 --classes leukocytes --workers 2
      the five leukocyte classes only; red cells and platelets are drawn, but not annotated
  python tools/make_smears.py --output output/small --images 500 --size 320x240 --magnification 0.5
      the same field of view in a quarter of the pixels: quick to train on
  python tools/make_smears.py --output output/mixed --images 500 --stain random --preview mixed.png
      a stain per image, and a contact sheet of the first images with their boxes

The same arguments give the same files. A folder that this tool wrote before is written anew; any
other folder that is not empty is refused. One image of 640x480 takes about 0.07 s on one core.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from wbcnets.errors import WbcnetsError
from wbcnets.synthetic.smears import (
    DIFFERENTIALS,
    LEUKOCYTE_CLASSES,
    SMEAR_CLASSES,
    SmearStyle,
    write_smear_dataset,
)


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


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    default = SmearStyle()
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, type=Path, help="folder for images/ and annotations.json")
    add("--images", type=int, default=100, help="number of images (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the dataset (default: %(default)s)")
    add("--size", type=_size, default=(640, 480), help="WIDTHxHEIGHT in pixels (default: 640x480)")
    add(
        "--magnification",
        type=float,
        default=default.magnification,
        help="size of the cells; 1.0 is BCCD's, a red cell of 105 pixels (default: %(default)s)",
    )
    add(
        "--stain",
        type=_stain,
        default=default.stain,
        help="wright, giemsa, may_grunwald, random, or a balance from 0.0 (eosin-pink) to 1.0"
        " (methylene-blue) (default: %(default)s)",
    )
    add(
        "--red-cells",
        type=float,
        default=default.red_cells,
        help="mean number on 640x480 pixels at magnification 1.0 (default: %(default)s)",
    )
    add(
        "--leukocytes",
        type=float,
        default=default.leukocytes,
        help="mean number in an image (default: %(default)s)",
    )
    add(
        "--differential",
        choices=DIFFERENTIALS,
        default=default.differential,
        help="shares of the leukocytes: all alike, or as in blood (default: %(default)s)",
    )
    add(
        "--classes",
        choices=("all", "leukocytes"),
        default="all",
        help="which cells to annotate (default: %(default)s)",
    )
    add("--png", action="store_true", help="lossless PNG images instead of JPEG of quality 92")
    add("--workers", type=int, default=0, help="threads; the files do not depend on it")
    add("--preview", type=Path, help="also write a contact sheet with boxes to this PNG file")
    return parser.parse_args(arguments)


def draw_preview(annotations: Path, preview: Path, rows: int = 2, columns: int = 3) -> None:
    """Writes a contact sheet of a dataset's first images with their boxes."""
    coco = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    first = coco["images"][0]
    sheet = np.full((rows * first["height"], columns * first["width"], 3), 255, dtype=np.uint8)
    for place, entry in enumerate(coco["images"][: rows * columns]):
        image = np.asarray(cv2.imread(str(annotations.parent / "images" / entry["file_name"])))
        for annotation in coco["annotations"]:
            if annotation["image_id"] != entry["id"]:
                continue
            x, y, width, height = (round(value) for value in annotation["bbox"])
            cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), (40, 120, 0), 1)
            name = names[annotation["category_id"]]
            cv2.putText(image, name, (x + 3, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
        top, left = place // columns * entry["height"], place % columns * entry["width"]
        sheet[top : top + entry["height"], left : left + entry["width"]] = image
    preview.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", sheet)
    preview.write_bytes(encoded.tobytes())


def main(arguments: list[str] | None = None) -> int:
    """Runs the command, and returns its exit status."""
    options = parse_arguments(arguments)
    width, height = options.size
    try:
        style = SmearStyle(
            height=height,
            width=width,
            stain=options.stain,
            magnification=options.magnification,
            red_cells=options.red_cells,
            leukocytes=options.leukocytes,
            differential=options.differential,
        )
        annotations = write_smear_dataset(
            options.output,
            options.images,
            seed=options.seed,
            style=style,
            classes=SMEAR_CLASSES if options.classes == "all" else LEUKOCYTE_CLASSES,
            workers=options.workers,
            suffix=".png" if options.png else ".jpg",
        )
    except WbcnetsError as error:
        print(f"make_smears: {error}", file=sys.stderr)
        return 2
    if options.preview:
        draw_preview(annotations, options.preview)
    print(annotations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
