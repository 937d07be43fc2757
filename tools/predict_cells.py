#!/usr/bin/env python
"""``wbcnets predict cells`` from a clone; see ``--help``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", "cells", *sys.argv[1:]]))
