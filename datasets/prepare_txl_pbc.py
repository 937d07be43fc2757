"""Prepares TXL-PBC; the same as ``wbcnets prepare txl_pbc``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "txl_pbc", *sys.argv[1:]]))
