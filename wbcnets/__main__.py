"""The command `wbcnets`, also `python -m wbcnets`."""

import argparse
import sys
from collections.abc import Sequence

from wbcnets.cli import check
from wbcnets.errors import WbcnetsError
from wbcnets.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="wbcnets", description="White-blood-cell networks.")
    parser.add_argument("--version", action="version", version=f"wbcnets {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "check",
        help="finds all problems of datasets in one pass",
        description=check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_arguments(command)
    command.set_defaults(run=check.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 2 on an error."""
    args = build_parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except (WbcnetsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
