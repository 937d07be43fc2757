"""Brings a dataset into the layout that training reads: checked, split, copied, with a report.

  wbcnets prepare bccd --source BCCD_Dataset-master.zip
  wbcnets prepare pbc --source PBC_dataset_normal_DIB.zip --classes 5
  wbcnets prepare cells --source my_cells.zip --output datasets/my_cells

Nothing is downloaded: get the dataset from the source that its card names, as a folder or a zip
file. Smears become images/ and COCO files in annotations/, cells become images/ and manifest.csv.
Both get a report.txt. The folder is datasets/<name>, below $WBCNETS_DATASETS if that is set.

wbcnets prepare NAME --help shows the options and the card of a dataset: the files that it expects,
classes, counts, license, source and citation.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import get_args

from wbcnets.cli.options import add_option
from wbcnets.data.cards import CARDS
from wbcnets.data.cards.card import ClassificationCard, DatasetCard, LeakPolicy
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cells.cutting import DEFAULT_CONTEXT
from wbcnets.data.prepare import PrepareOptions, prepare_dataset

_OPTIONS = {field.name for field in fields(PrepareOptions)}
_CELLS = """\
Any images that show one cell each: class folders, split folders of class folders, a CSV table with
the columns file and label (and optionally split and group), or a zip file of any of these. Paths in
a table are relative to its folder. A COCO file of fields with boxes is also a source: the cells are
cut out, as squares of --context times the longer side of a box. Unreadable images, images below
8 px and duplicates within a class are left out and named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subcommand per dataset, each with only its own options."""
    names = parser.add_subparsers(dest="dataset", required=True, metavar="NAME")
    for name, card in CARDS.items():
        if card.base:
            continue
        command = names.add_parser(name, help=card.title, description=card.describe())
        _add_shared(command)
        if card.selection:
            _add_classes(command, card)
        if isinstance(card, ClassificationCard):
            _add_split(command, card.leaks)
        if name == "txl_pbc_cells":
            _add_contexts(command)
    title = "any other images that show one cell each"
    command = names.add_parser("cells", help=title, description=_CELLS)
    _add_shared(command)
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
    command.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="the fields of a COCO file, by default beside it",
    )
    _add_contexts(command)
    _add_split(command, "refuse")


def _add_shared(command: argparse.ArgumentParser) -> None:
    command.set_defaults(parser=command)
    command.add_argument(
        "--source",
        required=True,
        type=Path,
        help="the dataset as published: a folder or a file",
    )
    add_option(command, "output", help="the folder to write, by default datasets/<name>")
    command.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="accept numbers of images or boxes that differ from the card",
    )


def _add_classes(command: argparse.ArgumentParser, card: DatasetCard) -> None:
    selections = _selections(card.name)
    titles = "; ".join(f"{key}: {entry.title}" for key, entry in selections.items())
    group = command.add_mutually_exclusive_group()
    group.add_argument("--classes", choices=tuple(selections), default=card.selection, help=titles)
    if "without_bccd" in selections:
        group.add_argument(
            "--without-bccd",
            action="store_const",
            const="without_bccd",
            dest="classes",
            help="the same as --classes without_bccd",
        )


def _selections(name: str) -> dict[str, DatasetCard]:
    return {card.selection: card for card in CARDS.values() if name in (card.name, card.base)}


def _add_contexts(command: argparse.ArgumentParser) -> None:
    help_text = (
        "of cells in boxes: the side of a crop over the box's longer side; one crop for each"
    )
    add_option(
        command, "context", dest="contexts", nargs="+", default=[DEFAULT_CONTEXT], help=help_text
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
        choices=get_args(LeakPolicy),
        default=leaks,
        help="if given splits share an image or a patient: refuse, drop it from the training side, "
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
    prepared = prepare_dataset(card, args.source, args.output, options)
    print(prepared.report)
    print(f"{prepared.folder}: prepared")
    return 0


def _find_card(args: argparse.Namespace) -> DatasetCard | None:
    if args.dataset == "cells":
        return CLASSIFICATION_CARDS.get(args.card)
    return _selections(args.dataset)[getattr(args, "classes", "")]
