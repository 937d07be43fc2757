"""Prepares WBCDD; the same as ``wbcnets prepare wbcdd``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "wbcdd", *sys.argv[1:]]))
