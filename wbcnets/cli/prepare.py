"""Brings a dataset into the layout that training reads: checked, split, copied, with a report.

  wbcnets prepare bccd --source BCCD_Dataset-master.zip
  wbcnets prepare pbc --source PBC_dataset_normal_DIB.zip --classes 5
  wbcnets prepare cells --source my_cells.zip --output datasets/my_cells

Nothing is downloaded: get the dataset from the source that its card names, as a folder or a zip
file. Smears become images/ and COCO files in annotations/, cells become images/ and manifest.csv.
Both get a report.txt. The folder is datasets/<name>, below $WBCNETS_DATASETS if that is set.

wbcnets prepare NAME --help shows the options and the card of a dataset: classes, counts, license,
source and citation.
"""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from wbcnets.cli.options import add_option
from wbcnets.data.cards import get_card
from wbcnets.data.cards.card import ClassificationCard, DetectionCard
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.prepare.cells import prepare_cells
from wbcnets.data.prepare.options import LEAK_CHOICES, PrepareOptions
from wbcnets.data.prepare.smears import prepare_smears

_OPTIONS = {field.name for field in fields(PrepareOptions)}


class _Dataset(NamedTuple):
    """A dataset's section of the help.

    Args:
        layout: The layout of its source.
        example: The published file.
        variants: A value of ``--classes`` -> the card; the first is the default.
    """

    layout: str
    example: str
    variants: Mapping[str, str] = {}


_LABELME = (
    "Folders train/ and test/ with images and their LabelMe .json files, or one folder of both\n"
    "with the lists train.txt and test.txt, one file stem per line. Labels are the full names of\n"
    "the five leukocyte types or NEU, EOS, BAS, LYM, MON."
)
_DATASETS = {
    "bccd": _Dataset("Annotations/, ImageSets/ and JPEGImages/.", "BCCD_Dataset-master.zip"),
    "txl_pbc": _Dataset(
        "images/, labels/ and metadata.csv.",
        "TXL-PBC.zip",
        {
            "cells": "txl_pbc",
            "subtype": "txl_pbc_subtype",
            "without_bccd": "txl_pbc_without_bccd",
        },
    ),
    "lisc": _Dataset(_LABELME, "LISC.zip"),
    "wbcdd": _Dataset(_LABELME, "WBCDD.zip"),
    "pbc": _Dataset(
        "Eight class folders, or train/ and val/ that hold them.",
        "PBC_dataset_normal_DIB.zip",
        {"8": "pbc", "5": "pbc5"},
    ),
    "aml_lmu": _Dataset(
        "Fifteen class folders, BAS to PMO.",
        "AML-Cytomorphology_LMU.zip",
        {"15": "aml_lmu", "10": "aml_lmu10"},
    ),
    "bmcd_fgcd": _Dataset(
        "Forty class folders, or splits of them. A class folder may be named by the number of the\n"
        "class (0 to 39), its name, or the spelling of the paper.",
        "BMCD-FGCD.zip",
    ),
    "all_idb2": _Dataset(
        "One folder of ImXXX_0.tif (healthy) and ImXXX_1.tif (lymphoblast).", "ALL_IDB2.zip"
    ),
    "cnmc": _Dataset(
        "The training folds with folders all/ and hem/ and, if wanted, the preliminary test set\n"
        "with its table of labels.",
        "C-NMC_Leukemia.zip",
    ),
    "bloodmnist": _Dataset(
        "The file bloodmnist.npz (28 px), bloodmnist_64.npz, _128.npz or _224.npz. Each size is a\n"
        "dataset of its own.",
        "bloodmnist_64.npz",
    ),
}
_CELLS = _Dataset(
    "Any images that show one cell each: class folders, split folders of class folders, a CSV\n"
    "table with the columns file and label (and optionally split and group), or a zip file of any\n"
    "of these. Paths in a table are relative to its folder. Unreadable images, images below 8 px\n"
    "and duplicates within a class are left out and named.",
    "my_cells.zip --output datasets/my_cells",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subcommand per dataset, each with only its own options."""
    names = parser.add_subparsers(dest="dataset", required=True, metavar="NAME")
    for name, dataset in _DATASETS.items():
        card = get_card(name)
        command = names.add_parser(name, help=card.title)
        _add_shared(command, name, dataset, f"{card.describe()}\n\n")
        if dataset.variants:
            _add_variants(command, dataset.variants)
        if isinstance(card, ClassificationCard):
            _add_split(command, card.leaks)
    command = names.add_parser("cells", help="any other images that show one cell each")
    _add_shared(command, "cells", _CELLS)
    command.add_argument(
        "--card",
        choices=tuple(CLASSIFICATION_CARDS),
        help="the dataset it is: take classes, counts and split from its card",
    )
    command.add_argument("--name", default="", help="the name of the dataset, by default FOLDER's")
    command.add_argument(
        "--group-pattern",
        default="",
        metavar="REGEX",
        help="find the patient or slide in a file name, such as '^(?P<group>P[0-9]+)_'",
    )
    _add_split(command, "stop")


def _add_shared(
    command: argparse.ArgumentParser, name: str, dataset: _Dataset, about: str = ""
) -> None:
    command.description = dataset.layout
    command.epilog = f"{about}Example: wbcnets prepare {name} --source {dataset.example}"
    command.set_defaults(parser=command)
    command.add_argument(
        "--source",
        required=True,
        type=Path,
        metavar="FOLDER_OR_FILE",
        help="the dataset as published: a folder, or a zip or other file as described above",
    )
    add_option(command, "output", help="the folder to write, by default datasets/<name>")
    command.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="accept numbers of images or boxes that differ from the card",
    )


def _add_variants(command: argparse.ArgumentParser, variants: Mapping[str, str]) -> None:
    default, *_ = variants
    titles = "; ".join(f"{value}: {get_card(card).title}" for value, card in variants.items())
    group = command.add_mutually_exclusive_group()
    group.add_argument("--classes", choices=tuple(variants), default=default, help=titles)
    if "without_bccd" in variants:
        group.add_argument(
            "--without-bccd",
            action="store_const",
            const="without_bccd",
            dest="classes",
            help="leave out the 142 images that come from BCCD, as --classes without_bccd does",
        )


def _add_split(command: argparse.ArgumentParser, leaks: str) -> None:
    command.add_argument(
        "--protocol",
        default="",
        help='a ratio such as 8:2 or 7:1:2, "5 folds", or "given"; by default the splits of the '
        "source, else those of the card",
    )
    add_option(command, "seed", help="the seed of the split")
    command.add_argument(
        "--leaks",
        choices=LEAK_CHOICES,
        default=leaks,
        help="if given splits share an image or a patient: stop, drop it from the training side, "
        "or keep it and report it",
    )
    command.add_argument(
        "--allow-rare",
        action="store_true",
        help="accept classes with fewer images than there are splits",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares the dataset and prints its report."""
    chosen = {key: value for key, value in vars(args).items() if key in _OPTIONS}
    card = _find_card(args)
    options = PrepareOptions(**chosen)
    if isinstance(card, DetectionCard):
        prepared = prepare_smears(card, args.source, args.output, options)
    else:
        prepared = prepare_cells(card, args.source, args.output, options)
    print(prepared.report)
    print(f"{prepared.folder}: prepared")
    return 0


def _find_card(args: argparse.Namespace) -> DetectionCard | ClassificationCard | None:
    if args.dataset == "cells":
        return CLASSIFICATION_CARDS.get(args.card)
    variants = _DATASETS[args.dataset].variants
    name = variants[args.classes] if variants else args.dataset
    return DETECTION_CARDS.get(name) or CLASSIFICATION_CARDS[name]
