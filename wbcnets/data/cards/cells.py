"""The cards of the cell-image datasets, and where a prepared set lies."""

from wbcnets.data.cards.bone_marrow import BONE_MARROW_CLASSES, BONE_MARROW_COUNTS
from wbcnets.data.cards.classes import CellCard, CellClass
from wbcnets.errors import DataError

_BASOPHIL = CellClass("basophil", "basophil", "BA", "granulocytic", ("baso", "basophils"))
_EOSINOPHIL = CellClass("eosinophil", "eosinophil", "EO", "granulocytic", ("eosi", "eosinophils"))
_LYMPHOCYTE = CellClass("lymphocyte", "lymphocyte", "LY", "lymphoid", ("lymp", "lymphocytes"))
_MONOCYTE = CellClass("monocyte", "monocyte", "MO", "monocytic", ("mono", "monocytes"))
_NEUTROPHIL = CellClass("neutrophil", "neutrophil", "NE", "granulocytic", ("neut", "neutrophils"))
_ERYTHROBLAST = CellClass("erythroblast", "erythroblast", "ERB", "erythroid", ("erythroblasts",))
_IMMATURE = CellClass(
    "ig",
    "immature granulocyte",
    "IG",
    "granulocytic",
    (
        "immature granulocytes",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
    ),
)
_PLATELET = CellClass("platelet", "platelet", "PLT", "megakaryocytic", ("platelets", "thrombocyte"))
_FIVE = (_BASOPHIL, _EOSINOPHIL, _LYMPHOCYTE, _MONOCYTE, _NEUTROPHIL)
_EIGHT = (*_FIVE[:2], _ERYTHROBLAST, _IMMATURE, *_FIVE[2:], _PLATELET)

_PBC_COUNTS = {
    "basophil": 1218,
    "eosinophil": 3117,
    "erythroblast": 1551,
    "ig": 2895,
    "lymphocyte": 1214,
    "monocyte": 1420,
    "neutrophil": 3329,
    "platelet": 2348,
}
_PBC_SOURCE = "Mendeley Data, data set snkd93bnjr (Hospital Clinic of Barcelona)"
_PBC_CITATION = (
    "Acevedo et al., A dataset of microscopic peripheral blood cell images for development of "
    "automatic recognition systems, Data in Brief 30, 105474, 2020"
)
_PBC_NOTES = (
    "normal cells of people without infection or blood disease, CellaVision DM96, 360x363 px",
    "the files say nothing about patients, so splits may share them",
    "the class ig holds promyelocytes (PMY), myelocytes (MY) and metamyelocytes (MMY), the class "
    "neutrophil band (BNE) and segmented (SNE) forms; the file's name says which",
    "8:2 is the ratio that the SCKansformer paper states for its own set; for PBC it states none",
)

_LMU_SOURCE = "The Cancer Imaging Archive, collection AML-Cytomorphology_LMU"
_LMU_CITATION = (
    "Matek et al., A single-cell morphological dataset of leukocytes from AML patients and "
    "non-malignant controls, The Cancer Imaging Archive, 2019"
)
_LMU_LICENSE = "CC BY 3.0 (not verified: read the collection's page)"
_LMU_CLASSES = (
    CellClass("NGS", "neutrophil, segmented", "NGS", "granulocytic"),
    CellClass("NGB", "neutrophil, band", "NGB", "granulocytic"),
    CellClass("LYT", "lymphocyte, typical", "LYT", "lymphoid"),
    CellClass("LYA", "lymphocyte, atypical", "LYA", "lymphoid"),
    CellClass("MON", "monocyte", "MON", "monocytic"),
    CellClass("EOS", "eosinophil", "EOS", "granulocytic"),
    CellClass("BAS", "basophil", "BAS", "granulocytic"),
    CellClass("MYO", "myeloblast", "MYO", "granulocytic"),
    CellClass("PMO", "promyelocyte", "PMO", "granulocytic"),
    CellClass("PMB", "promyelocyte, bilobed", "PMB", "granulocytic"),
    CellClass("MYB", "myelocyte", "MYB", "granulocytic"),
    CellClass("MMZ", "metamyelocyte", "MMZ", "granulocytic"),
    CellClass("MOB", "monoblast", "MOB", "monocytic"),
    CellClass("EBO", "erythroblast", "EBO", "erythroid"),
    CellClass("KSC", "smudge cell", "KSC", "uncategorized"),
)
_LMU_COUNTS = {
    "NGS": 8484,
    "NGB": 109,
    "LYT": 3937,
    "LYA": 11,
    "MON": 1789,
    "EOS": 424,
    "BAS": 79,
    "MYO": 3268,
    "PMO": 70,
    "PMB": 18,
    "MYB": 42,
    "MMZ": 15,
    "MOB": 26,
    "EBO": 78,
    "KSC": 15,
}
_LMU_TEN = ("NGS", "NGB", "LYT", "MON", "EOS", "BAS", "MYO", "PMO", "MYB", "EBO")
_LMU_OTHERS = tuple(name for name in _LMU_COUNTS if name not in _LMU_TEN)
_SPARSE_VIT = "convolutional sparse ViT paper"

_CARDS = (
    CellCard(
        name="pbc",
        title="PBC, peripheral blood cells, eight classes",
        classes=_EIGHT,
        counts=_PBC_COUNTS,
        license="CC BY 4.0",
        source=_PBC_SOURCE,
        citation=_PBC_CITATION,
        protocol="8:2",
        prepare="python datasets/prepare_pbc.py --source FOLDER_OR_ZIP",
        notes=_PBC_NOTES,
    ),
    CellCard(
        name="pbc5",
        title="PBC, peripheral blood cells, the five mature leukocytes",
        classes=_FIVE,
        counts={entry.name: _PBC_COUNTS[entry.name] for entry in _FIVE},
        license="CC BY 4.0",
        source=_PBC_SOURCE,
        citation=_PBC_CITATION,
        protocol="8:2",
        prepare="python datasets/prepare_pbc.py --source FOLDER_OR_ZIP --classes 5",
        left_out=("erythroblast", "ig", "platelet"),
        notes=_PBC_NOTES,
    ),
    CellCard(
        name="all_idb2",
        title="ALL-IDB2, acute lymphoblastic leukemia image database, single cells",
        classes=(
            CellClass("healthy", "cell without leukemia", "H", "uncategorized", ("0",)),
            CellClass("blast", "lymphoblast", "ALL", "lymphoid", ("1",)),
        ),
        counts={"healthy": 130, "blast": 130},
        license="on request from its authors for research",
        source="Universita degli Studi di Milano, ALL-IDB (request form)",
        citation=(
            "Donida Labati, Piuri, Scotti, ALL-IDB: the acute lymphoblastic leukemia image "
            "database for image processing, ICIP 2011"
        ),
        protocol="8:2",
        prepare="python datasets/prepare_all_idb2.py --source FOLDER_OR_ZIP",
        notes=(
            "the label is the last number of the file's name: ImXXX_1.tif is a lymphoblast, "
            "ImXXX_0.tif is none; 257x257 px",
            "cells are crops of ALL-IDB1's fields; from which patient each comes is unknown here",
            "8:2 is the ratio that the SCKansformer paper states for its own set",
        ),
    ),
    CellCard(
        name="bmcd_fgcd",
        title="BMCD-FGCD, bone marrow cells, forty classes",
        classes=BONE_MARROW_CLASSES,
        counts=BONE_MARROW_COUNTS,
        license="published by its authors for research (not verified: read the data's page)",
        source="GitHub, JustIfC03/SCKansformer, which names where the images lie",
        citation=(
            "Chen et al., SCKansformer: Fine-Grained Classification of Bone Marrow Cells via "
            "Kansformer Backbone and Hierarchical Attention Mechanisms, IEEE Journal of Biomedical "
            "and Health Informatics"
        ),
        protocol="8:2",
        prepare="python datasets/prepare_bmcd_fgcd.py --source FOLDER_OR_ZIP",
        notes=(
            "counts and class numbers are those of the paper's figure 4: 92,335 images in 32 "
            "classes; eight classes have no image and keep their numbers",
            "four classes have five images; their metrics say nothing",
            "folders are known by number, name or the figure's spelling; the layout of the "
            "published archive is not verified",
            "patients are unknown, and the paper splits by image",
        ),
    ),
    CellCard(
        name="aml_lmu",
        title="AML-Cytomorphology LMU, fifteen classes",
        classes=_LMU_CLASSES,
        counts=_LMU_COUNTS,
        license=_LMU_LICENSE,
        source=_LMU_SOURCE,
        citation=_LMU_CITATION,
        protocol="5 folds",
        prepare="python datasets/prepare_aml_lmu.py --source FOLDER_OR_ZIP",
        notes=(
            "18,365 cells of 100 patients with AML and 100 without; 400x400 px TIFF with alpha "
            "(the size is not verified)",
            "files are named by class and number, so folds may share patients",
            "four classes have 11 to 18 images: two or three a fold",
        ),
    ),
    CellCard(
        name="aml_lmu10",
        title=f"AML-Cytomorphology LMU, the ten classes of the {_SPARSE_VIT}",
        classes=tuple(entry for entry in _LMU_CLASSES if entry.name in _LMU_TEN),
        counts={name: _LMU_COUNTS[name] for name in _LMU_TEN},
        license=_LMU_LICENSE,
        source=_LMU_SOURCE,
        citation=f"{_LMU_CITATION}; selection: table 4 of the {_SPARSE_VIT}",
        protocol="5 folds",
        prepare="python datasets/prepare_aml_lmu.py --source FOLDER_OR_ZIP --classes 10",
        left_out=_LMU_OTHERS,
        caps=dict.fromkeys(("NGS", "LYT", "MON", "MYO"), 1000),
        repeats={"NGB": 5, "EOS": 2, "BAS": 5, "PMO": 5, "MYB": 5, "EBO": 5},
        notes=(
            "the four large classes are capped at 1,000 images, and the six small ones are "
            "augmented to 545, 848, 395, 350, 210 and 390, twice or five times as many: 4,802 "
            "files, 6,738 with the copies, as in table 4",
            "here the copies are made after the split and in the training part only; the paper "
            "does not say when it made them",
            "the paper also crops and screens the images by hand, which cannot be repeated",
        ),
    ),
    CellCard(
        name="cnmc",
        title="C-NMC 2019, normal and malignant B-lymphoid cells",
        classes=(
            CellClass("hem", "normal cell", "HEM", "lymphoid", ("normal", "0")),
            CellClass("all", "leukemic blast", "ALL", "lymphoid", ("leukemia", "blast", "1")),
        ),
        counts={"hem": 4037, "all": 8491},
        license="CC BY 3.0 (not verified: read the collection's page)",
        source="The Cancer Imaging Archive, collection C-NMC 2019",
        citation="Gupta and Gupta (editors), ISBI 2019 C-NMC Challenge, Springer, 2019",
        protocol="7:1:2",
        prepare="python datasets/prepare_cnmc.py --source FOLDER_OR_ZIP",
        group_pattern=r"^UID_(?P<group>H?\d+)_",
        notes=(
            "12,528 labeled cells, the number of the ResNeXt-CC paper: the training set "
            "(7,272 and 3,389) and the preliminary test set (1,219 and 648)",
            "the patient is the number after UID in the file's name, and the split keeps patients "
            "apart; the paper does not say that its split does",
            "segmented cells on black, 450x450 px as published (not verified; the paper says 300)",
        ),
    ),
    CellCard(
        name="bloodmnist",
        title="BloodMNIST of MedMNIST v2: PBC, center-cropped to 200 px and resized",
        classes=_EIGHT,
        counts=_PBC_COUNTS,
        license="CC BY 4.0",
        source="MedMNIST v2 (Zenodo): bloodmnist.npz, bloodmnist_64.npz, _128.npz, _224.npz",
        citation=(
            "Yang et al., MedMNIST v2, Scientific Data 10, 41, 2023; images: " + _PBC_CITATION
        ),
        protocol="given",
        prepare="python datasets/prepare_bloodmnist.py --source bloodmnist_64.npz",
        notes=(
            "11,959 training, 1,712 validation and 3,421 test images, split as published",
            "these are PBC's images: never train on one and test on the other",
        ),
    ),
    CellCard(
        name="lisc_cells",
        title="LISC, leukocytes cropped from their fields",
        classes=_FIVE,
        counts={},
        license="free for research, no formal license; ask its authors for other uses",
        source="the LISC data base of Rezatofighi et al.",
        citation=(
            "Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood "
            "cells in peripheral blood, Computerized Medical Imaging and Graphics 35, 2011"
        ),
        protocol="5 folds",
        prepare="python datasets/prepare_cells.py --card lisc_cells --source FOLDER_OR_ZIP",
        left_out=("mixt", "mixture"),
        notes=(
            "class folders of crops; counts differ between publications and are not compared",
            "the folder of mixed fields is passed over",
        ),
    ),
    CellCard(
        name="raabin_wbc",
        title="Raabin-WBC, the cells labeled by two experts",
        classes=_FIVE,
        counts={},
        license="free for research (not verified: read the data's page)",
        source="Raabin Health Database, double-labeled cropped cells: Train, TestA, TestB",
        citation=(
            "Kouzehkanan et al., A large dataset of white blood cells containing cell locations "
            "and types, along with segmented nuclei and cytoplasm, Scientific Reports 12, 2022"
        ),
        protocol="given",
        prepare="python datasets/prepare_cells.py --card raabin_wbc --source FOLDER_OR_ZIP",
        notes=(
            "10,175 training and 4,339 TestA cells of one laboratory; TestB is of another camera "
            "and laboratory (numbers not verified)",
        ),
    ),
)

CELL_CARDS: dict[str, CellCard] = {card.name: card for card in _CARDS}


def get_cell_card(name: str) -> CellCard:
    """Looks up a card.

    Raises:
        DataError: There is no such dataset; the message lists the names.
    """
    if name not in CELL_CARDS:
        raise DataError(f'cell dataset "{name}" is unknown - choose from {", ".join(CELL_CARDS)}')
    return CELL_CARDS[name]
