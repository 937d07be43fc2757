"""Prepares C-NMC 2019; the same as ``wbcnets prepare cnmc``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "cnmc", *sys.argv[1:]]))
