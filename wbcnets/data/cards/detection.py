"""The cards of the datasets of smears with boxes."""

from dataclasses import replace

from wbcnets.data.cards.card import DetectionCard

FIVE_TYPES = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
BLOOD_CELLS = ("RBC", "WBC", "Platelets")

_MFDS_DETR = (
    "Chen et al., Accurate Leukocyte Detection Based on Deformable-DETR and Multi-Level Feature "
    "Fusion for Aiding Diagnosis of Blood Diseases, Computers in Biology and Medicine 170, 2024"
)
_LABELME = (
    "folders train/ and test/ with images and their LabelMe .json files, or one folder of both "
    "with the lists train.txt and test.txt, one file stem per line; labels are the full names of "
    "the five leukocyte types or NEU, EOS, BAS, LYM, MON"
)
_TXL_PBC = DetectionCard(
    name="txl_pbc",
    title="TXL-PBC, version 2",
    layout="images/, labels/ and metadata.csv",
    selection="cells",
    class_names=BLOOD_CELLS,
    splits={"train": 882, "val": 252},
    box_counts={"RBC": 14603, "WBC": 1165, "Platelets": 494},
    counted_splits=("train", "val"),
    license="MIT",
    source="GitHub, lugan113/TXL-PBC_Dataset (version 2); metadata.csv names the image sources",
    citation="Gan et al., TXL-PBC: a freely accessible labeled peripheral blood cell dataset, 2024",
    notes=(
        "142 images are BCCD images under other names, 26 of them from BCCD's test list: to train "
        "here and test on BCCD, use txl_pbc_without_bccd",
        "files are named .png, but most hold JPEG and some RGBA; the test split is not used",
        "34 boxes are listed twice; the second copies are dropped",
    ),
)

_CARDS = (
    DetectionCard(
        name="bccd",
        title="Blood Cell Count and Detection (BCCD)",
        layout="Annotations/, ImageSets/ and JPEGImages/",
        class_names=BLOOD_CELLS,
        splits={"trainval": 292, "test": 72, "train": 205, "val": 87},
        box_counts={"RBC": 4155, "WBC": 372, "Platelets": 361},
        counted_splits=("trainval", "test"),
        license="MIT",
        source="GitHub, Shenggan/BCCD_Dataset, folder BCCD",
        citation="Shenggan, BCCD Dataset, 2017; the split is that of ImageSets/Main",
        notes=(
            "4,888 boxes are published; two RBC boxes, in BloodImage_00338 and BloodImage_00343, "
            "have no area and are dropped, which leaves 4,886",
            "coordinates are 1-based (VOC); 640x480 px; some cells have no box",
            "trainval and test share no image (equal pixels, or dHash within 4 of 64 bits); the "
            "patients are unknown",
        ),
    ),
    _TXL_PBC,
    replace(
        _TXL_PBC,
        name="txl_pbc_without_bccd",
        base="txl_pbc",
        selection="without_bccd",
        title="TXL-PBC, version 2, without the images that come from BCCD",
        splits={"train": 781, "val": 211},
        box_counts={},
        notes=_TXL_PBC.notes[1:2],
    ),
    replace(
        _TXL_PBC,
        name="txl_pbc_subtype",
        base="txl_pbc",
        selection="subtype",
        title="TXL-PBC, version 2, the images of a known leukocyte type, five classes",
        class_names=FIVE_TYPES,
        splits={"train": 450, "val": 138},
        box_counts={},
        notes=(
            "every leukocyte gets the type that metadata.csv states for its image; red cells and "
            "platelets are left out",
        ),
    ),
    DetectionCard(
        name="lisc",
        title="LISC, Leukocyte Images for Segmentation and Classification",
        layout=_LABELME,
        class_names=FIVE_TYPES,
        splits={"train": 200, "test": 50},
        box_counts=dict(zip(FIVE_TYPES, (53, 44, 57, 55, 51))),
        counted_splits=("train", "test"),
        license="free for research, no formal license; ask its authors for other uses",
        source=(
            "images: the LISC database of Rezatofighi et al.; boxes: LabelMe files published "
            "with MFDS-DETR (GitHub, JustlfC03/MFDS-DETR)"
        ),
        citation=(
            "Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood "
            f"cells in peripheral blood, 2011; boxes: {_MFDS_DETR}"
        ),
        notes=("counts are those of the MFDS-DETR paper, section 4.1 and table 1",),
    ),
    DetectionCard(
        name="wbcdd",
        title="WBCDD, Leukocyte Detection Dataset",
        layout=_LABELME,
        class_names=FIVE_TYPES,
        splits={"train": 540, "test": 144},
        box_counts=dict(zip(FIVE_TYPES, (1008, 14, 13, 171, 51))),
        counted_splits=("train", "test"),
        license="published for research by the authors of MFDS-DETR; ask them for other uses",
        source="GitHub, JustlfC03/MFDS-DETR, section on the WBCDD dataset (LabelMe files)",
        citation=_MFDS_DETR,
        notes=(
            "counts are those of the paper, section 4.1 and table 1",
            "eosinophils (14) and basophils (13) are too few for a stable AP of their own",
        ),
    ),
)

DETECTION_CARDS: dict[str, DetectionCard] = {card.name: card for card in _CARDS}
