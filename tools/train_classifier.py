#!/usr/bin/env python
"""``wbcnets train cells`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "cells", *sys.argv[1:]]))
