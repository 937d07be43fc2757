"""Looks at datasets: which there are, what they hold, and whether annotations are usable.

  python tools/datasets.py list
  python tools/datasets.py show bccd_test --output bccd_test.png
  python tools/datasets.py show my.json --images my_images --count 4

`wbcnets check` tells whether annotations can be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from wbcnets.data.cards.detection import CARDS, ROOT_VARIABLE, dataset_paths, dataset_root
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.preview import preview
from wbcnets.errors import DataError


def list_datasets(args: argparse.Namespace) -> int:
    """Prints every card, and which of its splits are in place."""
    for card in CARDS.values():
        print(card.describe())
        for name in card.dataset_names:
            annotations, images = dataset_paths(name, args.root, must_exist=False)
            ready = annotations.is_file() and images.is_dir()
            print(f"  {name}: {annotations if ready else 'not prepared'}")
        print()
    print(f"looked in {dataset_root(args.root)} (change it with --root or {ROOT_VARIABLE})")
    return 0


def find_dataset(name: str, images: Path | None, root: Path | None) -> tuple[Path, Path]:
    """Resolves a registered name, or a JSON file together with its image folder."""
    if images is not None:
        return Path(name), images
    if name.endswith(".json"):
        raise DataError(f"{name}: name the folder of its images with --images FOLDER")
    return dataset_paths(name, root)


def show(args: argparse.Namespace) -> int:
    """Prints the counts and writes a sheet of random images."""
    annotations, images = find_dataset(args.name, args.images, args.root)
    dataset = load_coco(annotations, images)
    print(dataset.summary())
    sheet = preview(dataset, args.count, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(args.output)
    print(
        f"{args.output}: {min(args.count, len(dataset.images))} random images (--seed {args.seed})"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--root", type=Path, help=f"folder of the datasets (default: ${ROOT_VARIABLE} or datasets)"
    )
    one = argparse.ArgumentParser(add_help=False, parents=[shared])
    one.add_argument("name", metavar="NAME", help="a name such as bccd_test, or a COCO JSON file")
    one.add_argument("--images", type=Path, metavar="FOLDER", help="image folder of a JSON file")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("list", parents=[shared], help="the dataset cards")
    command.set_defaults(run=list_datasets)

    command = commands.add_parser("show", parents=[one], help="a sheet of images, and the counts")
    command.add_argument("--count", type=int, default=9, help="images on the sheet (default: 9)")
    command.add_argument("--output", type=Path, default=Path("output/dataset.png"), metavar="FILE")
    command.add_argument("--seed", type=int, default=0, help="which images (default: 0)")
    command.set_defaults(run=show)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
