"""Prepares LISC; the same as ``wbcnets prepare lisc``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "lisc", *sys.argv[1:]]))
