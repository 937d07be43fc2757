"""Prepares BloodMNIST; the same as ``wbcnets prepare bloodmnist``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "bloodmnist", *sys.argv[1:]]))
