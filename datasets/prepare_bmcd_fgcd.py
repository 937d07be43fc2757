"""Prepares BMCD-FGCD; the same as ``wbcnets prepare bmcd_fgcd``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "bmcd_fgcd", *sys.argv[1:]]))
