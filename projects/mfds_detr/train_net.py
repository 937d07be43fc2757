#!/usr/bin/env python
"""``wbcnets train smears`` from a clone; see ``--help``."""

import sys

from mfds_detr.cli import train
from wbcnets.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command(train))
