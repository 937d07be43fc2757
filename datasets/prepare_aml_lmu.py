"""Prepares AML-Cytomorphology LMU; the same as ``wbcnets prepare aml_lmu``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "aml_lmu", *sys.argv[1:]]))
