"""``python -m wbcnets``."""

import sys

from wbcnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
