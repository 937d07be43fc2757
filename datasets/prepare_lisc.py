"""Turns LISC with the LabelMe files of the MFDS-DETR authors into COCO files.

The source has folders train/ and test/ that hold images and their .json files, or is one folder of
both with the lists train.txt and test.txt. Labels are the full names of the five leukocyte types or
NEU, EOS, BAS, LYM, MON. Writes annotations/{train,test}.json and images/{train,test}/, and checks
the counts against those of the paper.

Example: python datasets/prepare_lisc.py --source LISC.zip
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from wbcnets.data.cards.detection import get_card
from wbcnets.data.prepare.labelme import prepare_labelme
from wbcnets.data.prepare.sources import build_parser, run_command

CARD = get_card("lisc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    args = build_parser(__doc__, CARD).parse_args(arguments)
    output = args.output or Path("datasets") / CARD.name
    return run_command(lambda: prepare_labelme(CARD, args.source, output, args.allow_other_counts))


if __name__ == "__main__":
    sys.exit(main())
