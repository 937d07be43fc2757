"""Prepares any images that show one cell each; the same as ``wbcnets prepare cells``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "cells", *sys.argv[1:]]))
