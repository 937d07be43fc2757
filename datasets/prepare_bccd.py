"""Prepares BCCD; the same as ``wbcnets prepare bccd``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "bccd", *sys.argv[1:]]))
