"""Puts BMCD-FGCD (Chen et al., SCKansformer) in place: forty class folders, or splits of them.

A class folder may have the class's number (0 to 39), its name, or the paper's spelling of it. The
eight classes without an image keep their numbers. Class folders are split 8:2, with near duplicates
kept together. Writes images/, manifest.csv and report.txt.

Example: python datasets/prepare_bmcd_fgcd.py --source BMCD-FGCD.zip
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
    parser = build_parser(__doc__, get_cell_card("bmcd_fgcd"))
    add_options(parser)
    args = parser.parse_args(arguments)
    card = get_cell_card("bmcd_fgcd")
    output = args.output or Path("datasets") / card.name

    def prepare() -> None:
        with open_source(args.source) as folder:
            prepare_cells(list_cells(folder), output, read_options(args), card)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
