"""Lists the known datasets, or draws some images of one with their boxes.

Examples:
  wbcnets datasets list                     the dataset cards, and which splits are prepared
  wbcnets datasets show bccd_test           counts, and a sheet of random images
  wbcnets datasets show my.json --images my_images --count 4 --output my.png

``wbcnets check`` finds out whether annotations can be used.
"""

import argparse
from pathlib import Path

from wbcnets.cli.options import add_option, at_least
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.cards.paths import ROOT_VARIABLE, dataset_paths, dataset_root
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.preview import claim_preview, save_preview
from wbcnets.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets datasets``."""
    add = parser.add_argument
    add("action", choices=("list", "show"), help="list all datasets, or show one")
    add("name", nargs="?", help="to show: a name such as bccd_test, or a COCO JSON file")
    add("--images", type=Path, metavar="FOLDER", help="the folder of a JSON file's images")
    add("--root", type=Path, help=f"the folder of datasets (default: ${ROOT_VARIABLE} or datasets)")
    add("--count", type=at_least(1), default=9, help="images on the sheet")
    add_option(
        parser,
        "output",
        default=Path("output/dataset.png"),
        metavar="PNG",
        help="the sheet of images",
    )
    add_option(parser, "seed", help="chooses the images")


def run(args: argparse.Namespace) -> int:
    """Lists or shows.

    Raises:
        ConfigError: if a dataset to show is not named, or its images are not.
        DataError: if the dataset is not prepared or cannot be read.
    """
    if args.action == "list":
        _list(args.root)
        return 0
    annotations, images = _find(args.name, args.images, args.root)
    claim_preview(args.output, [str(annotations)])
    dataset = load_coco(annotations, images)
    print(dataset.summary())
    count = save_preview(dataset, args.output, args.count, args.seed)
    print(f"{args.output}: {count} random images (--seed {args.seed})")
    return 0


def _list(root: Path | None) -> None:
    for card in DETECTION_CARDS.values():
        print(card.describe())
        for name in card.dataset_names:
            annotations, images = dataset_paths(name, root, must_exist=False)
            ready = annotations.is_file() and images.is_dir()
            print(f"  {name}: {annotations if ready else 'not prepared'}")
        print()
    print(f"searched {dataset_root(root)} (change it with --root or {ROOT_VARIABLE})")


def _find(name: str | None, images: Path | None, root: Path | None) -> tuple[Path, Path]:
    """Returns the annotations and images of a known name, or of a JSON file with its folder."""
    if name is None:
        raise ConfigError("name the dataset to show, such as: wbcnets datasets show bccd_test")
    if images is not None:
        return Path(name), images
    if name.endswith(".json"):
        raise ConfigError(f"{name}: name the folder of its images with --images FOLDER")
    return dataset_paths(name, root)
