"""Preparation of the sets that are published as LabelMe files beside their images: LISC, WBCDD."""

from pathlib import Path

from wbcnets.data.cards.detection import DatasetCard
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.detection.image_paths import find_by_stem
from wbcnets.data.detection.labelme import labelme_to_coco
from wbcnets.data.prepare.sources import Split, copy_images, open_source, write_splits
from wbcnets.errors import DataError
from wbcnets.io.image_files import IMAGE_SUFFIXES

# The labels that the paper's tables and annotators use for the five types.
ALIASES = {
    "NEU": "neutrophil",
    "EOS": "eosinophil",
    "BAS": "basophil",
    "LYM": "lymphocyte",
    "MON": "monocyte",
}
EXPECTED = (
    "expected folders train/ and test/ that hold images and their LabelMe .json files (in "
    "subfolders if need be), or one folder of both with the lists train.txt and test.txt, a file "
    "stem a line"
)


def prepare_labelme(
    card: DatasetCard, source: Path, output: Path, allow_other_counts: bool = False
) -> dict[str, CocoDataset]:
    """Converts a LabelMe set of the five leukocyte types.

    Args:
        card: The dataset, with the splits train and test.
        source: Folder or zip file in one of the two layouts of `EXPECTED`.
        output: Folder to write `annotations/` and `images/<split>/` into.
        allow_other_counts: See `write_splits`.

    Returns:
        Split name -> dataset.

    Raises:
        DataError: The layout is another one, images or annotations lack their partner, or the
            conversion found problems.
    """
    aliases = {
        variant: full for short, full in ALIASES.items() for variant in _variants(short, full)
    }
    splits = []
    with open_source(source) as folder:
        annotations = _find_annotations(folder, tuple(card.splits))
        for name, files in annotations.items():
            images = _find_images(files)
            target = output / "images" / name
            copy_images(images, target)
            coco, report = labelme_to_coco(
                files, target, card.classes, aliases=aliases, image_root=output / "images"
            )
            splits.append(Split(name, coco, report))
    return write_splits(card, output, splits, allow_other_counts)


def _variants(short: str, full: str) -> tuple[str, ...]:
    return short, short.lower(), short.capitalize(), full.capitalize(), full.upper()


def _find_annotations(folder: Path, splits: tuple[str, ...]) -> dict[str, list[Path]]:
    """Finds the JSON files of each split in either layout."""
    for base in [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]:
        if all((base / split).is_dir() for split in splits):
            return {split: sorted((base / split).rglob("*.json")) for split in splits}
        if all((base / f"{split}.txt").is_file() for split in splits):
            return {split: _read_list(base, split) for split in splits}
    raise DataError(f"{folder}: {EXPECTED}")


def _read_list(base: Path, split: str) -> list[Path]:
    stems = (base / f"{split}.txt").read_text(encoding="utf-8-sig").split()
    by_stem = {path.stem: path for path in base.rglob("*.json")}
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise DataError(f"{base / split}.txt: stems without a .json file", missing)
    return [by_stem[stem] for stem in stems]


def _find_images(files: list[Path]) -> list[Path]:
    """Finds each JSON file's image by its stem: beside it, or in a folder `images` next to it."""
    if not files:
        raise DataError(f"there are no .json files - {EXPECTED}")
    images, problems = [], []
    for path in files:
        beside = (path.parent, path.parent / "images", path.parent.parent / "images")
        found = [image for place in beside if (image := find_by_stem(place, path.stem))]
        if found:
            images.append(found[0])
        else:
            problems.append(f"{path}: there is no image of this stem beside it")
    annotated = {path.stem for path in files}
    for place in {image.parent for image in images}:
        # A folder of the flat layout holds the images of the other split as well.
        for image in sorted(place.iterdir()):
            alone = not (place / f"{image.stem}.json").is_file() and image.stem not in annotated
            if image.suffix.lower() in IMAGE_SUFFIXES and alone and place.name != "images":
                problems.append(f"{image}: has no .json file - annotate it or take it out")
    if problems:
        raise DataError(f"{len(problems)} files lack their partner", problems)
    return images
