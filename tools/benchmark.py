#!/usr/bin/env python
"""``wbcnets benchmark`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
