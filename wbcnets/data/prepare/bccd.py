"""BCCD as published: Annotations, ImageSets and JPEGImages."""

from pathlib import Path

from wbcnets.data.cards.card import DetectionCard
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.voc import load_voc
from wbcnets.data.prepare.sources import copy_images, find_layout, read_list


def read_bccd(card: DetectionCard, folder: Path, images: Path) -> dict[str, CocoDataset]:
    """Copies the images and reads the Pascal VOC files of every split.

    Raises:
        DataError: if lists, images or annotations are missing or cannot be used.
    """
    layout = find_layout(folder, "ImageSets/Main/trainval.txt")
    stems = {
        split: read_list(layout / "ImageSets" / "Main" / f"{split}.txt") for split in card.splits
    }
    wanted = sorted(set().union(*stems.values()))
    copy_images((layout / "JPEGImages" / f"{stem}.jpg" for stem in wanted), images)
    splits = {}
    for name, names in stems.items():
        files = [layout / "Annotations" / f"{stem}.xml" for stem in names]
        splits[name] = load_voc(files, images, card.class_names, origin=1)
    return splits
