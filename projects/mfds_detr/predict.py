#!/usr/bin/env python
"""``wbcnets predict smears`` from a clone; see ``--help``."""

import sys

from mfds_detr.cli import predict
from wbcnets.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command(predict))
