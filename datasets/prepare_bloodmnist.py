"""Puts BloodMNIST in place: a file bloodmnist.npz (28 px), bloodmnist_64.npz, _128.npz or _224.npz.

Writes its images as PNG files with the splits as published, a manifest.csv and a report.txt that
names the images which its splits share. Each size is a set of its own: bloodmnist,
bloodmnist_64, ...

Example: python datasets/prepare_bloodmnist.py --source bloodmnist_64.npz
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.cells import get_cell_card
from wbcnets.data.cells.medmnist import unpack_medmnist
from wbcnets.data.prepare.cells import add_options, prepare_cells, read_options
from wbcnets.data.prepare.sources import build_parser, run_command

CARD = get_cell_card("bloodmnist")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = build_parser(__doc__, CARD)
    # A published benchmark is used as it is, and says what it shares
    add_options(parser, leaks="keep")
    args = parser.parse_args(arguments)

    def prepare() -> None:
        name = args.source.stem if args.source.stem.startswith(CARD.name) else CARD.name
        output = args.output or Path("datasets") / name
        with tempfile.TemporaryDirectory(prefix="wbcnets-") as folder:
            listing = unpack_medmnist(args.source, CARD, Path(folder))
            prepare_cells(listing, output, read_options(args), CARD, name)

    return run_command(prepare)


if __name__ == "__main__":
    sys.exit(main())
