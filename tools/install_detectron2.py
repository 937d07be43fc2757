#!/usr/bin/env python
"""``wbcnets install-detectron2`` from a clone, also before wbcnets is installed; see ``--help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["install-detectron2", *sys.argv[1:]]))
