#!/usr/bin/env python
"""``wbcnets datasets`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["datasets", *sys.argv[1:]]))
