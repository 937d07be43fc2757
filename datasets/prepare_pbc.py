"""Puts PBC (Acevedo et al.) in place: eight class folders, or train/ and val/ that hold them.

Class folders are split 8:2, with near duplicates kept together. Splits that the source already has
are kept and checked for images that they share. Writes images/, manifest.csv and report.txt.

Example: python datasets/prepare_pbc.py --source PBC_dataset_normal_DIB.zip
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
    parser = build_parser(__doc__, get_cell_card("pbc"))
    parser.add_argument(
        "--classes",
        choices=("8", "5"),
        default="8",
        help="5: the mature leukocytes only, as the set pbc5 (default: 8)",
    )
    add_options(parser)
    args = parser.parse_args(arguments)
    card = get_cell_card("pbc5" if args.classes == "5" else "pbc")
    output = args.output or Path("datasets") / card.name

    def prepare() -> None:
        with open_source(args.source) as folder:
            prepare_cells(list_cells(folder), output, read_options(args), card)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
