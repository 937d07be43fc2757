"""Prepares ALL-IDB2; the same as ``wbcnets prepare all_idb2``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "all_idb2", *sys.argv[1:]]))
