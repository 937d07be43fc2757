"""LISC and WBCDD as the authors of MFDS-DETR published them: LabelMe files beside the images."""

from pathlib import Path

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.image_paths import find_by_stem
from wbcnets.data.detection.labelme import load_labelme
from wbcnets.data.prepare.sources import copy_images, read_list
from wbcnets.errors import DataError
from wbcnets.io.image_files import find_files, find_image_files, list_folder

# The short labels of the paper's tables, and the other spellings of the annotators
_SHORT = {
    "NEU": "neutrophil",
    "EOS": "eosinophil",
    "BAS": "basophil",
    "LYM": "lymphocyte",
    "MON": "monocyte",
}
ALIASES = {
    spelling: name
    for short, name in _SHORT.items()
    for spelling in (short, short.lower(), short.capitalize(), name.capitalize(), name.upper())
}


def read_labelme(card: DetectionCard, folder: Path, images: Path) -> dict[str, CocoDataset]:
    """Copies the images and reads the LabelMe files of every split.

    Raises:
        DataError: if the layout is another one, or images or annotations lack their partner.
    """
    splits = {}
    for name, files in _find_annotations(folder, card).items():
        if not files:
            raise DataError(f"{folder}: there are no .json files - expected {card.layout}")
        target = images / name
        copy_images(_find_images(files), target)
        splits[name] = load_labelme(
            files, target, card.class_names, aliases=ALIASES, image_root=images
        )
    return splits


def _find_annotations(folder: Path, card: DetectionCard) -> dict[str, list[Path]]:
    splits = tuple(card.splits)
    for base in [folder, *list_folder(folder).folders]:
        if all((base / split).is_dir() for split in splits):
            return {split: list(find_files(base / split, {".json"})) for split in splits}
        if all((base / f"{split}.txt").is_file() for split in splits):
            return {split: _listed(base, split) for split in splits}
    raise DataError(f"{folder}: expected {card.layout}")


def _listed(base: Path, split: str) -> list[Path]:
    stems = read_list(base / f"{split}.txt")
    by_stem = {path.stem: path for path in find_files(base, {".json"})}
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise DataError(f"{base / split}.txt: stems without a .json file", missing)
    return [by_stem[stem] for stem in stems]


def _find_images(files: list[Path]) -> list[Path]:
    """Returns the image of each JSON file: beside it, or in a folder ``images`` next to it."""
    images, problems = [], []
    for path in files:
        beside = (path.parent, path.parent / "images", path.parent.parent / "images")
        found = [image for folder in beside if (image := find_by_stem(folder, path.stem))]
        if found:
            images.append(found[0])
        else:
            problems.append(f"{path}: there is no image of this stem beside it")
    annotated = {path.stem for path in files}
    # A folder ``images`` holds those of the other split as well
    for folder in sorted({image.parent for image in images if image.parent.name != "images"}):
        for image in find_image_files(folder, recursive=False):
            if image.stem not in annotated and not image.with_suffix(".json").is_file():
                problems.append(f"{image}: has no .json file - annotate it or remove it")
    if problems:
        raise DataError(f"{len(problems)} files lack their partner", problems)
    return images
