"""Dataset cards: what each set holds, where it comes from, and where it lies on the disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wbcnets.errors import DataError

ROOT_VARIABLE = "WBCNETS_DATASETS"
FIVE_TYPES = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
BLOOD_CELLS = ("RBC", "WBC", "Platelets")


@dataclass(frozen=True)
class DatasetCard:
    """Facts about one dataset.

    Args:
        name: Folder under the dataset root, and first part of the names of its splits.
        title: Its published name.
        classes: Class names in the order of their category ids 1, 2, ...
        splits: Expected number of images per split that is written.
        box_counts: Expected boxes per class as published, over `counted_splits`; empty where none
            were published.
        counted_splits: The splits that make up the whole set without overlap.
        license: Under which terms it may be used.
        source: Where to get it.
        citation: The work to cite.
        notes: What a user should know before training on it.
        prepare: The command that puts it in place.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    box_counts: Mapping[str, int]
    counted_splits: tuple[str, ...]
    license: str
    source: str
    citation: str
    prepare: str
    notes: tuple[str, ...] = field(default=())

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """The names under which its splits are registered, such as `bccd_trainval`."""
        return tuple(f"{self.name}_{split}" for split in self.splits)

    def describe(self) -> str:
        """The card as text."""
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        boxes = ", ".join(f"{name} {count:,}" for name, count in self.box_counts.items())
        lines = [
            f"{self.name}: {self.title}",
            f"  images:   {splits}",
            f"  classes:  {', '.join(self.classes)}",
            f"  boxes:    {boxes or 'no counts published'}",
            f"  license:  {self.license}",
            f"  source:   {self.source}",
            f"  cite:     {self.citation}",
            f"  prepare:  {self.prepare}",
        ]
        return "\n".join(lines + [f"  note:     {note}" for note in self.notes])


_MFDS_DETR = (
    "Chen et al., Accurate Leukocyte Detection Based on Deformable-DETR and Multi-Level Feature "
    "Fusion for Aiding Diagnosis of Blood Diseases, Computers in Biology and Medicine 170, 2024"
)
_TXL_PBC = "Gan et al., TXL-PBC: a freely accessible labeled peripheral blood cell dataset, 2024"
_TXL_SOURCE = "GitHub, lugan113/TXL-PBC_Dataset (version 2); metadata.csv names the image sources"
_TXL_NOTES = (
    "142 images are BCCD images under other names, 26 of them from BCCD's test list: what trains "
    "here and is tested on BCCD must be prepared with --without-bccd",
    "files are named .png, most hold JPEG and some RGBA; the test split is not used",
)

_CARDS = (
    DatasetCard(
        name="bccd",
        title="Blood Cell Count and Detection (BCCD)",
        classes=BLOOD_CELLS,
        splits={"trainval": 292, "test": 72, "train": 205, "val": 87},
        box_counts={"RBC": 4155, "WBC": 372, "Platelets": 361},
        counted_splits=("trainval", "test"),
        license="MIT",
        source="GitHub, Shenggan/BCCD_Dataset, folder BCCD (Annotations, ImageSets, JPEGImages)",
        citation="Shenggan, BCCD Dataset, 2017; the split is that of ImageSets/Main",
        prepare="python datasets/prepare_bccd.py --source FOLDER_OR_ZIP",
        notes=(
            "4,888 boxes are published; two RBC boxes, in BloodImage_00338 and BloodImage_00343, "
            "have zero area and are dropped, which leaves 4,886",
            "coordinates are 1-based (VOC); 640x480 px; some labels are known to be missing",
            "trainval and test share no image (equal pixels, or dHash within 4 of 64 bits); which "
            "patients the images come from is unknown",
        ),
    ),
    DatasetCard(
        name="txl_pbc",
        title="TXL-PBC, version 2",
        classes=BLOOD_CELLS,
        splits={"train": 882, "val": 252},
        box_counts={"RBC": 14603, "WBC": 1165, "Platelets": 494},
        counted_splits=("train", "val"),
        license="MIT",
        source=_TXL_SOURCE,
        citation=_TXL_PBC,
        prepare="python datasets/prepare_txl_pbc.py --source FOLDER_OR_ZIP",
        notes=(*_TXL_NOTES, "34 boxes stand twice in their files and are dropped once"),
    ),
    DatasetCard(
        name="txl_pbc_without_bccd",
        title="TXL-PBC, version 2, without the images that come from BCCD",
        classes=BLOOD_CELLS,
        splits={"train": 781, "val": 211},
        box_counts={},
        counted_splits=("train", "val"),
        license="MIT",
        source=_TXL_SOURCE,
        citation=_TXL_PBC,
        prepare="python datasets/prepare_txl_pbc.py --source FOLDER_OR_ZIP --without-bccd",
        notes=_TXL_NOTES[1:],
    ),
    DatasetCard(
        name="txl_pbc_subtype",
        title="TXL-PBC, version 2, the images whose leukocyte type is known, five classes",
        classes=FIVE_TYPES,
        splits={"train": 450, "val": 138},
        box_counts={},
        counted_splits=("train", "val"),
        license="MIT",
        source=_TXL_SOURCE,
        citation=_TXL_PBC,
        prepare="python datasets/prepare_txl_pbc.py --source FOLDER_OR_ZIP --classes subtype",
        notes=(
            "every leukocyte of an image gets the type that metadata.csv states for the image; "
            "red cells and platelets are left out",
        ),
    ),
    DatasetCard(
        name="lisc",
        title="LISC, Leukocyte Images for Segmentation and Classification",
        classes=FIVE_TYPES,
        splits={"train": 200, "test": 50},
        box_counts={
            "neutrophil": 53,
            "eosinophil": 44,
            "basophil": 57,
            "lymphocyte": 55,
            "monocyte": 51,
        },
        counted_splits=("train", "test"),
        license="free for research, no formal license; ask its authors for other uses",
        source=(
            "images: the LISC data base of Rezatofighi et al.; boxes: LabelMe files published "
            "with MFDS-DETR (GitHub, JustlfC03/MFDS-DETR)"
        ),
        citation=(
            "Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood "
            f"cells in peripheral blood, 2011; boxes: {_MFDS_DETR}"
        ),
        prepare="python datasets/prepare_lisc.py --source FOLDER_OR_ZIP",
        notes=("counts are those of the MFDS-DETR paper, section 4.1 and table 1",),
    ),
    DatasetCard(
        name="wbcdd",
        title="WBCDD, Leukocyte Detection Dataset",
        classes=FIVE_TYPES,
        splits={"train": 540, "test": 144},
        box_counts={
            "neutrophil": 1008,
            "eosinophil": 14,
            "basophil": 13,
            "lymphocyte": 171,
            "monocyte": 51,
        },
        counted_splits=("train", "test"),
        license="published for research by the authors of MFDS-DETR; ask them for other uses",
        source="GitHub, JustlfC03/MFDS-DETR, section on the WBCDD dataset (LabelMe files)",
        citation=_MFDS_DETR,
        prepare="python datasets/prepare_wbcdd.py --source FOLDER_OR_ZIP",
        notes=(
            "counts are those of the paper, section 4.1 and table 1",
            "eosinophils (14) and basophils (13) are too few for a stable AP of their own",
        ),
    ),
)

CARDS: dict[str, DatasetCard] = {card.name: card for card in _CARDS}
DATASET_NAMES: tuple[str, ...] = tuple(name for card in _CARDS for name in card.dataset_names)


def get_card(name: str) -> DatasetCard:
    """Looks up a card.

    Raises:
        DataError: There is no such dataset; the message lists the names.
    """
    if name not in CARDS:
        raise DataError(f'dataset "{name}" is unknown - choose from {", ".join(CARDS)}')
    return CARDS[name]


def dataset_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the datasets: `root`, else the variable WBCNETS_DATASETS, else `datasets`."""
    return Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "datasets")


def dataset_paths(
    name_split: str, root: str | os.PathLike[str] | None = None, *, must_exist: bool = True
) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of a split.

    Args:
        name_split: A name such as `bccd_trainval` or `txl_pbc_val`, see `DATASET_NAMES`.
        root: Folder of the datasets, see `dataset_root`.
        must_exist: Whether missing files are an error; registration ahead of use says False.

    Returns:
        `<root>/<name>/annotations/<split>.json` and `<root>/<name>/images`.

    Raises:
        DataError: The name is unknown, or the files are missing; the message names the command that
            prepares the dataset.
    """
    if name_split not in DATASET_NAMES:
        raise DataError(
            f'dataset "{name_split}" is unknown - choose from {", ".join(DATASET_NAMES)}'
        )
    # A card's name may be the start of another one's, so the split decides: it has no underscore.
    name, _, split = name_split.rpartition("_")
    folder = dataset_root(root) / name
    annotations, images = folder / "annotations" / f"{split}.json", folder / "images"
    if must_exist and not (annotations.is_file() and images.is_dir()):
        missing = images if annotations.is_file() else annotations
        raise DataError(
            f'dataset "{name_split}": {missing} does not exist - run `{CARDS[name].prepare}`, or '
            f"name the folder of the datasets in {ROOT_VARIABLE}"
        )
    return annotations, images
