"""The folders of prepared datasets."""

import os
from pathlib import Path

from wbcnets.data.cards import CARDS, unknown_name
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.errors import DataError

ROOT_VARIABLE = "WBCNETS_DATASETS"
DATASET_NAMES: tuple[str, ...] = tuple(
    name for card in DETECTION_CARDS.values() for name in card.dataset_names
)


def dataset_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the datasets: ``root``, ``$WBCNETS_DATASETS`` or ``datasets``."""
    return Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "datasets")


def dataset_paths(
    name_split: str, root: str | os.PathLike[str] | None = None, *, must_exist: bool = True
) -> tuple[Path, Path]:
    """Returns the annotation file and the image folder of a split of smears.

    Args:
        name_split: One of ``DATASET_NAMES``, such as ``bccd_trainval``.
        root: See ``dataset_root``.
        must_exist: Whether missing files are an error.

    Returns:
        ``<root>/<name>/annotations/<split>.json`` and ``<root>/<name>/images``.

    Raises:
        DataError: if the name is unknown, or files are missing; the message names the command that
            prepares the dataset.
    """
    if name_split not in DATASET_NAMES:
        raise DataError(unknown_name(name_split, DATASET_NAMES))
    # The last underscore separates: the name of a card may have underscores, a split has none
    name, _, split = name_split.rpartition("_")
    folder = dataset_root(root) / name
    annotations, images = folder / "annotations" / f"{split}.json", folder / "images"
    if must_exist and not (annotations.is_file() and images.is_dir()):
        raise not_prepared(name, images if annotations.is_file() else annotations)
    return annotations, images


def not_prepared(name: str, missing: Path) -> DataError:
    """Returns the error for a known dataset that has no files: it names the command to run."""
    return DataError(
        f"{missing}: does not exist - run `{CARDS[name].prepare}`, or set {ROOT_VARIABLE} to the "
        "folder of the datasets"
    )
