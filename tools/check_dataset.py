#!/usr/bin/env python
"""``wbcnets check`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
