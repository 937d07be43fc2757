"""The papers' ablation tables: the settings that each row changes, and the paper's results.

Results are percentages; None if the paper does not state one.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AblationTable:
    """One table of a paper.

    Args:
        title: Paper, number and subject.
        rows: Label of each row, and the name of its run in ``AblationStudy.runs``.
        results: The paper's results per row, in the order of ``AblationStudy.metrics``.
        dataset: Name of the paper's dataset.
        note: A remark on the paper's results.
    """

    title: str
    rows: dict[str, str]
    results: tuple[tuple[float | None, ...], ...]
    dataset: str
    note: str = ""


@dataclass(frozen=True)
class AblationStudy:
    """The ablation tables of a paper.

    Args:
        preset: The settings that all rows share.
        metrics: The columns, metrics of an evaluation; with "positive:" before it, the metric of
            the paper's positive class if there are two classes.
        runs: The settings that each run changes in the preset, by the run's name.
        tables: The tables by number.
        base: Settings of all runs that differ from the preset.
    """

    preset: str
    metrics: tuple[str, ...]
    runs: dict[str, tuple[str, ...]]
    tables: dict[str, AblationTable]
    base: tuple[str, ...] = field(default=())


_SCK_ROWS = {
    "without SCConv": "without_scconv",
    "without global-local attention": "without_global_local",
    "without KAN": "without_kan",
    "SCKansformer": "whole",
}

SCKANSFORMER = AblationStudy(
    preset="sckansformer_pbc",
    metrics=("precision_macro", "recall_macro", "f1_macro", "accuracy"),
    runs={
        "without_scconv": ("model.kwargs.scconv=false",),
        "without_global_local": ("model.kwargs.global_local=false",),
        "without_kan": ("model.kwargs.mlp=mlp",),
        "whole": (),
    },
    tables={
        "IV": AblationTable(
            "SCKansformer, table IV: BMCD-FGCD",
            _SCK_ROWS,
            (
                (83.79, 82.71, 82.14, 81.77),
                (75.38, 75.31, 74.79, 74.87),
                (83.27, 81.23, 81.34, 82.37),
                (85.82, 84.28, 84.34, 83.23),
            ),
            "bmcd_fgcd",
            "the paper's text gives 82.27 for the precision and the accuracy without KAN",
        ),
        "V": AblationTable(
            "SCKansformer, table V: PBC",
            _SCK_ROWS,
            (
                (97.34, 97.31, 97.31, 97.32),
                (88.01, 88.01, 87.93, 88.03),
                (95.13, 95.14, 95.14, 95.13),
                (99.47, 99.46, 99.46, 99.46),
            ),
            "pbc",
        ),
        "VI": AblationTable(
            "SCKansformer, table VI: ALL-IDB2",
            _SCK_ROWS,
            (
                (96.43, 96.21, 96.12, 96.23),
                (89.43, 86.51, 86.31, 86.53),
                (98.17, 98.12, 98.14, 98.13),
                (99.90, 99.85, 99.85, 99.86),
            ),
            "all_idb2",
        ),
    },
)

_UNKNOWN = (None, None, None, None)
_COMPOSITE = (87.46, 90.62, 93.87, 77.72)
_CENTER = "loss.name={weighted_softmax: 1.0, center: 0.05}"

RESNEXT_CC = AblationStudy(
    preset="resnext_cc_cnmc",
    metrics=("accuracy", "positive:f1", "positive:auroc", "positive:specificity"),
    # What is added table by table: color space, fusion, loss, attention
    runs={
        "resnext50_softmax": (
            *("model.kwargs.eca=false", "model.kwargs.fusion=none"),
            "loss.name=cross_entropy",
        ),
        "resnext101_softmax": (
            *("model.name=resnext_cc_101", "model.kwargs.eca=false", "model.kwargs.fusion=none"),
            "loss.name=cross_entropy",
        ),
        "rgb": (
            *("model.kwargs.eca=false", "model.kwargs.fusion=none"),
            *("model.kwargs.color_space=rgb", "loss.name=weighted_softmax"),
        ),
        "hsv": (
            *("model.kwargs.eca=false", "model.kwargs.fusion=none"),
            "loss.name=weighted_softmax",
        ),
        "conv5_2": (
            *("model.kwargs.eca=false", "model.kwargs.fusion=conv5_2+conv5_3"),
            "loss.name=weighted_softmax",
        ),
        "conv5_1": ("model.kwargs.eca=false", "loss.name=weighted_softmax"),
        "softmax": ("model.kwargs.eca=false", "loss.name=cross_entropy"),
        "center": ("model.kwargs.eca=false", _CENTER),
        "eca": (_CENTER,),
    },
    tables={
        "3": AblationTable(
            "ResNeXt-CC, table 3: depth",
            {"ResNeXt-50": "resnext50_softmax", "ResNeXt-101": "resnext101_softmax"},
            (_UNKNOWN, _UNKNOWN),
            "cnmc",
            "the paper's text says that 50 layers are better but in specificity",
        ),
        "4": AblationTable(
            "ResNeXt-CC, table 4: color space",
            {"RGB": "rgb", "HSV": "hsv"},
            (_UNKNOWN, _UNKNOWN),
            "cnmc",
            "the paper's text: HSV is better by 0.16, 0.42, 0.07 and 1.24",
        ),
        "5": AblationTable(
            "ResNeXt-CC, table 5: feature fusion",
            {"Conv5_3": "hsv", "Conv5_2 + Conv5_3": "conv5_2", "Conv5_1 + Conv5_3": "conv5_1"},
            (_UNKNOWN, _UNKNOWN, _UNKNOWN),
            "cnmc",
            "the paper's text: Conv5_1 is better than Conv5_2 by 0.59, 0.43, 0.53 and 1.08",
        ),
        "6": AblationTable(
            "ResNeXt-CC, table 6: loss",
            {"softmax": "softmax", "w-softmax": "conv5_1", "w-softmax + center": "center"},
            (_UNKNOWN, _UNKNOWN, _COMPOSITE),
            "cnmc",
        ),
        "7": AblationTable(
            "ResNeXt-CC, table 7: attention in the down-sampling",
            {"without ECA": "center", "with ECA": "eca"},
            (_COMPOSITE, (89.45, 92.08, 94.73, 81.11)),
            "cnmc",
            "computed from the last row of table 6 and the text's differences, 1.99, 1.46, 0.86 "
            "and 3.39",
        ),
    },
)

CONV_SPARSE_VIT = AblationStudy(
    preset="conv_sparse_vit_aml",
    metrics=("precision_macro",),
    base=("model.name=sparse_vit_base_patch16", "model.kwargs={}"),
    runs={
        "vit_contrastive": ("model.kwargs.sparse_attention=false", "loss.name=conv_sparse_vit"),
        "vit": (
            *("model.kwargs.sparse_attention=false", "loss.name=cross_entropy"),
            "loss.options={}",
        ),
        "sparse_contrastive": ("loss.name=conv_sparse_vit",),
        "sparse": ("loss.name=cross_entropy", "loss.options={}"),
    },
    tables={
        "3": AblationTable(
            "Convolutional sparse ViT, table 3: contrastive loss",
            {
                "ViT, contrastive loss": "vit_contrastive",
                "ViT": "vit",
                "sparse attention, contrastive loss": "sparse_contrastive",
                "sparse attention": "sparse",
            },
            ((91.08,), (90.79,), (91.62,), (91.28,)),
            "aml_lmu10",
        ),
    },
)

STUDIES = {
    "sckansformer": SCKANSFORMER,
    "resnext_cc": RESNEXT_CC,
    "conv_sparse_vit": CONV_SPARSE_VIT,
}
