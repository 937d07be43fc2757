"""Puts AML-Cytomorphology LMU (Matek et al.) in place: fifteen class folders, BAS to PMO.

Divides them into five folds, with near duplicates kept together. With --classes 10 it takes the ten
classes of the convolutional sparse ViT's paper and caps the four large ones at 1,000 images. Writes
images/, manifest.csv and report.txt.

Example: python datasets/prepare_aml_lmu.py --source AML-Cytomorphology_LMU.zip
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import get_cell_card
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.prepare.cells import add_options, prepare_cells, read_options
from wbcnets.data.prepare.sources import build_parser, open_source, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = build_parser(__doc__, get_cell_card("aml_lmu"))
    parser.add_argument(
        "--classes",
        choices=("15", "10"),
        default="15",
        help="10: those of the sparse ViT's paper, capped, as the set aml_lmu10 (default: 15)",
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    card = get_cell_card("aml_lmu10" if args.classes == "10" else "aml_lmu")
    output = args.output or Path("datasets") / card.name

    def prepare() -> None:
        with open_source(args.source) as folder:
            prepare_cells(list_cells(folder), output, read_options(args), card)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
