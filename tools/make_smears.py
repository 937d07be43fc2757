#!/usr/bin/env python
"""``wbcnets smears`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["smears", *sys.argv[1:]]))
