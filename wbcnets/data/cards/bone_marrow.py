"""The 40 classes of BMCD-FGCD: figure 4 of Chen et al., SCKansformer, with its counts.

Differences from the figure: names correct its obvious slips, and its spelling stays an alias
("Bistocyte" -> histiocyte). Terms that are unusual in English but not wrong stay.
"""

from wbcnets.data.cards.classes import CellClass

_GRANULOCYTIC = "granulocytic"
_RED = "erythroid"
_LYMPHATIC = "lymphoid"
_MONOCYTIC = "monocytic"
_MEGAKARYOCYTIC = "megakaryocytic"
_PLASMA = "plasma cell"
_OTHER = "uncategorized"

# (name, spelling in the figure if it differs, short name, lineage, images in training and test)
_ROWS: tuple[tuple[str, str, str, str, int], ...] = (
    ("haemocytoblast", "", "HB", "stem cell", 5),
    ("myeloblast", "", "MB", _GRANULOCYTIC, 1952),
    ("promyelocyte", "", "PM", _GRANULOCYTIC, 1803),
    ("neutrophilic myelocyte", "", "NMY", _GRANULOCYTIC, 5427),
    ("neutrophilic metamyelocyte", "", "NMM", _GRANULOCYTIC, 14065),
    ("neutrophilic granulocyte band form", "", "NBF", _GRANULOCYTIC, 14034),
    ("neutrophilic granulocyte segmented form", "", "NSF", _GRANULOCYTIC, 9252),
    ("acidophilic in young", "Acidophilus in young", "EMY", _GRANULOCYTIC, 124),
    ("acidophilic late young", "", "EMM", _GRANULOCYTIC, 922),
    ("acidophilic rod-shaped nucleus", "", "EBF", _GRANULOCYTIC, 165),
    (
        "eosinophilic lobulated granulocyte",
        "Eosinophilic phloem granulocyte",
        "ESF",
        _GRANULOCYTIC,
        685,
    ),
    ("basophilic in young", "", "BMY", _GRANULOCYTIC, 20),
    ("basophilic late young", "", "BMM", _GRANULOCYTIC, 40),
    ("basophilic rod-shaped nucleus", "", "BBF", _GRANULOCYTIC, 5),
    ("basophilic lobule nucleus", "", "BSF", _GRANULOCYTIC, 30),
    ("pronormoblast", "", "PNB", _RED, 112),
    ("prorubricyte", "", "PRC", _RED, 328),
    ("polychromatic erythroblast", "", "PCE", _RED, 7179),
    ("metarubricyte", "", "MRC", _RED, 10242),
    ("giant early erythrocyte", "", "GEE", _RED, 0),
    ("giant medium erythrocyte", "", "GME", _RED, 0),
    ("giant late erythrocyte", "", "GLE", _RED, 0),
    ("primordial lymphocyte", "", "LB", _LYMPHATIC, 0),
    ("prolymphocyte", "", "PLC", _LYMPHATIC, 5732),
    ("mature lymphocyte", "", "LC", _LYMPHATIC, 14716),
    ("heterotypic lymphocyte", "", "HLC", _LYMPHATIC, 332),
    ("primitive monocyte", "", "MOB", _MONOCYTIC, 326),
    ("promonocyte", "", "PMO", _MONOCYTIC, 1205),
    ("mature monocyte", "", "MO", _MONOCYTIC, 2879),
    ("megakaryoblast", "", "MKB", _MEGAKARYOCYTIC, 0),
    ("promegakaryocyte", "", "PMK", _MEGAKARYOCYTIC, 0),
    ("granulocyte megakaryocyte", "", "GMK", _MEGAKARYOCYTIC, 25),
    (
        "thrombocytogenic megakaryocyte",
        "Thromcytogenic megakaryocyte",
        "TMK",
        _MEGAKARYOCYTIC,
        0,
    ),
    ("naked megakaryocyte", "", "NMK", _MEGAKARYOCYTIC, 5),
    ("plasmablast", "", "PB", _PLASMA, 10),
    ("infantile plasmacyte", "Infantile plasmocyte", "IPC", _PLASMA, 268),
    ("mature plasmacyte", "Mature plasmocyte", "MPC", _PLASMA, 237),
    ("histiocyte", "Bistocyte", "HC", _OTHER, 5),
    ("juvenile cell", "", "JC", _OTHER, 205),
    ("unidentified cell", "Unidentified cel", "UC", _OTHER, 0),
)


def _build(label: int, row: tuple[str, str, str, str, int]) -> CellClass:
    name, printed, short, lineage, _ = row
    aliases = (str(label), f"{label:02d}", printed or name)
    return CellClass(name, name, short, lineage, aliases)


BONE_MARROW_CLASSES: tuple[CellClass, ...] = tuple(
    _build(label, row) for label, row in enumerate(_ROWS)
)
BONE_MARROW_COUNTS: dict[str, int] = {row[0]: row[4] for row in _ROWS}
