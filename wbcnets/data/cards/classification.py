"""The cards of the datasets of images that show one cell each."""

from dataclasses import replace

from wbcnets.data.cards.bone_marrow import BONE_MARROW_CLASSES, BONE_MARROW_COUNTS
from wbcnets.data.cards.card import ClassificationCard
from wbcnets.data.cards.classes import OTHER, CellClass

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
_OTHER = CellClass(OTHER, "neither leukocyte nor platelet", "OTH", "none")
_FIVE = (_BASOPHIL, _EOSINOPHIL, _LYMPHOCYTE, _MONOCYTE, _NEUTROPHIL)
_EIGHT = (*_FIVE[:2], _ERYTHROBLAST, _IMMATURE, *_FIVE[2:], _PLATELET)

_PBC = ClassificationCard(
    name="pbc",
    title="PBC, peripheral blood cells, eight classes",
    layout="eight class folders, or train/ and val/ that hold them",
    selection="8",
    classes=_EIGHT,
    counts={
        "basophil": 1218,
        "eosinophil": 3117,
        "erythroblast": 1551,
        "ig": 2895,
        "lymphocyte": 1214,
        "monocyte": 1420,
        "neutrophil": 3329,
        "platelet": 2348,
    },
    license="CC BY 4.0",
    source="Mendeley Data, data set snkd93bnjr (Hospital Clinic of Barcelona)",
    citation=(
        "Acevedo et al., A dataset of microscopic peripheral blood cell images for development of "
        "automatic recognition systems, Data in Brief 30, 105474, 2020"
    ),
    protocol="8:2",
    notes=(
        "normal cells of people without infection or blood disease, CellaVision DM96, 360x363 px",
        "the files do not name patients, so splits may share them",
        "class ig holds promyelocytes (PMY), myelocytes (MY) and metamyelocytes (MMY), class "
        "neutrophil holds band (BNE) and segmented (SNE) forms; the file name tells which",
        "8:2 is the ratio that the SCKansformer paper states for its own dataset; it states none "
        "for PBC",
    ),
)

_LMU = ClassificationCard(
    name="aml_lmu",
    title="AML-Cytomorphology LMU, fifteen classes",
    layout="fifteen class folders, BAS to PMO",
    selection="15",
    classes=(
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
    ),
    counts={
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
    },
    license="CC BY 3.0 (not verified: read the collection's page)",
    source="The Cancer Imaging Archive, collection AML-Cytomorphology_LMU",
    citation=(
        "Matek et al., A single-cell morphological dataset of leukocytes from AML patients and "
        "non-malignant controls, The Cancer Imaging Archive, 2019"
    ),
    protocol="5 folds",
    notes=(
        "18,365 cells of 100 patients with AML and 100 without; 400x400 px TIFF with alpha "
        "(the size is not verified)",
        "files are named by class and number, so folds may share patients",
        "four classes have 11 to 18 images, two or three per fold",
    ),
)
_LMU_TEN = ("NGS", "NGB", "LYT", "MON", "EOS", "BAS", "MYO", "PMO", "MYB", "EBO")
_SPARSE_VIT = "convolutional sparse ViT paper"

_CARDS = (
    _PBC,
    replace(
        _PBC,
        name="pbc5",
        base="pbc",
        selection="5",
        title="PBC, peripheral blood cells, the five mature leukocytes",
        classes=_FIVE,
        counts={entry.name: _PBC.counts[entry.name] for entry in _FIVE},
        left_out=("erythroblast", "ig", "platelet"),
    ),
    ClassificationCard(
        name="all_idb2",
        title="ALL-IDB2, acute lymphoblastic leukemia image database, single cells",
        layout="one folder of ImXXX_0.tif (healthy) and ImXXX_1.tif (lymphoblast)",
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
        notes=(
            "the file name ends in the label: ImXXX_1.tif is a lymphoblast, ImXXX_0.tif is not; "
            "257x257 px",
            "cells are crops of the fields of ALL-IDB1; their patients are unknown",
            "8:2 is the ratio that the SCKansformer paper states for its own dataset",
        ),
    ),
    ClassificationCard(
        name="bmcd_fgcd",
        title="BMCD-FGCD, bone marrow cells, forty classes",
        layout=(
            "forty class folders, or splits of them, named by the number of the class (0 to 39), "
            "its name, or the spelling of the figure (not verified)"
        ),
        classes=BONE_MARROW_CLASSES,
        counts=BONE_MARROW_COUNTS,
        license="published by its authors for research (not verified: read the page of the data)",
        source="GitHub, JustIfC03/SCKansformer, which links to the images",
        citation=(
            "Chen et al., SCKansformer: Fine-Grained Classification of Bone Marrow Cells via "
            "Kansformer Backbone and Hierarchical Attention Mechanisms, IEEE Journal of Biomedical "
            "and Health Informatics"
        ),
        protocol="8:2",
        notes=(
            "counts and class numbers are those of figure 4 of the paper: 92,335 images in 32 "
            "classes; eight classes have no image and keep their numbers",
            "four classes have five images each, too few for a metric to mean anything",
            "patients are unknown, and the paper splits by image",
        ),
    ),
    _LMU,
    replace(
        _LMU,
        name="aml_lmu10",
        base="aml_lmu",
        selection="10",
        title=f"AML-Cytomorphology LMU, the ten classes of the {_SPARSE_VIT}",
        classes=tuple(entry for entry in _LMU.classes if entry.name in _LMU_TEN),
        counts={name: _LMU.counts[name] for name in _LMU_TEN},
        citation=f"{_LMU.citation}; selection: table 4 of the {_SPARSE_VIT}",
        left_out=tuple(name for name in _LMU.counts if name not in _LMU_TEN),
        caps=dict.fromkeys(("NGS", "LYT", "MON", "MYO"), 1000),
        repeats={"NGB": 5, "EOS": 2, "BAS": 5, "PMO": 5, "MYB": 5, "EBO": 5},
        notes=(
            "the four large classes are capped at 1,000 images; the six small ones are augmented "
            "two or five times, to 545, 848, 395, 350, 210 and 390: 4,802 files, 6,738 with the "
            "copies, as in table 4",
            "copies are made after the split, of training images only; the paper does not say "
            "when it made them",
            "the paper also crops and screens the images by hand, which cannot be repeated",
        ),
    ),
    ClassificationCard(
        name="cnmc",
        title="C-NMC 2019, normal and malignant B-lymphoid cells",
        layout=(
            "the training folds with folders all/ and hem/ and, optionally, the preliminary test "
            "set with its table of labels"
        ),
        classes=(
            CellClass("hem", "normal cell", "HEM", "lymphoid", ("normal", "0")),
            CellClass("all", "leukemic blast", "ALL", "lymphoid", ("leukemia", "blast", "1")),
        ),
        counts={"hem": 4037, "all": 8491},
        license="CC BY 3.0 (not verified: read the collection's page)",
        source="The Cancer Imaging Archive, collection C-NMC 2019",
        citation="Gupta and Gupta (editors), ISBI 2019 C-NMC Challenge, Springer, 2019",
        protocol="7:1:2",
        group_pattern=r"^UID_(?P<group>H?\d+)_",
        notes=(
            "12,528 labeled cells, the number in the ResNeXt-CC paper: the training set "
            "(7,272 and 3,389) and the preliminary test set (1,219 and 648)",
            "the patient is the number after UID in the file name, and no split shares a patient; "
            "the paper does not say that of its own split",
            "segmented cells on black, 450x450 px as published (not verified; the paper says 300)",
        ),
    ),
    ClassificationCard(
        name="bloodmnist",
        title="BloodMNIST of MedMNIST v2: PBC, center-cropped to 200 px and resized",
        layout=(
            "the file bloodmnist.npz (28 px), bloodmnist_64.npz, _128.npz or _224.npz; each size "
            "is a dataset of its own"
        ),
        classes=_EIGHT,
        counts=_PBC.counts,
        license="CC BY 4.0",
        source="MedMNIST v2 (Zenodo)",
        citation=(
            "Yang et al., MedMNIST v2, Scientific Data 10, 41, 2023; images: " + _PBC.citation
        ),
        protocol="given",
        leaks="keep",  # a published benchmark is used as it is
        notes=(
            "11,959 training, 1,712 validation and 3,421 test images, split as published",
            "these are the images of PBC: never train on one and test on the other",
        ),
    ),
    ClassificationCard(
        name="txl_pbc_cells",
        title="TXL-PBC, cells cut from the fields of four laboratories",
        layout="images/, labels/ and metadata.csv",
        classes=(*_EIGHT, _OTHER),
        counts={},
        license="MIT",
        source="the repository of TXL-PBC, version 2",
        citation="Gan et al., TXL-PBC: a freely accessible labeled peripheral blood cell dataset",
        protocol="given",
        leaks="keep",  # fields of one slide are on both sides as published
        notes=(
            "splits are a laboratory and a part: pbc_train, pbc_val, bccd_train, raabin_val, ...",
            "types of Raabin-WBC follow from the order of its images, ours; six unclear cells are "
            "left out",
            "the leukocytes of BCDD have no type: its crops are red cells and empty field only",
            "pbc_train and pbc_val are images of PBC: never train on one and test on the other",
        ),
    ),
    ClassificationCard(
        name="lisc_cells",
        title="LISC, leukocytes cropped from their fields",
        layout="class folders of crops",
        classes=_FIVE,
        counts={},
        license="free for research, no formal license; ask its authors for other uses",
        source="the LISC database of Rezatofighi et al.",
        citation=(
            "Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood "
            "cells in peripheral blood, Computerized Medical Imaging and Graphics 35, 2011"
        ),
        protocol="5 folds",
        left_out=("mixt", "mixture"),
        notes=(
            "published counts differ and are not checked",
            "the folder of mixed fields is left out",
        ),
    ),
    ClassificationCard(
        name="raabin_wbc",
        title="Raabin-WBC, the cells labeled by two experts",
        layout="Train, TestA and TestB, each with class folders",
        classes=_FIVE,
        counts={},
        license="free for research (not verified: read the page of the data)",
        source="Raabin Health Database, double-labeled cropped cells",
        citation=(
            "Kouzehkanan et al., A large dataset of white blood cells containing cell locations "
            "and types, along with segmented nuclei and cytoplasm, Scientific Reports 12, 2022"
        ),
        protocol="given",
        notes=(
            "10,175 training and 4,339 TestA cells of one laboratory; TestB comes from another "
            "camera and laboratory (numbers not verified)",
        ),
    ),
)

CLASSIFICATION_CARDS: dict[str, ClassificationCard] = {card.name: card for card in _CARDS}
