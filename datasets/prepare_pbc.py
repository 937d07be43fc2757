"""Prepares PBC; the same as ``wbcnets prepare pbc``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "pbc", *sys.argv[1:]]))
