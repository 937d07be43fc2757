"""Prints the tab completion of all commands and options for a shell.

Examples:
  wbcnets completion bash > ~/.local/share/bash-completion/completions/wbcnets
  wbcnets completion zsh > ~/.zfunc/_wbcnets      (with ~/.zfunc in fpath)
"""

import argparse
from collections.abc import Iterator

import shtab

from wbcnets.cli.main import CommandParser, build_parser
from wbcnets.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets completion``."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to print it for")


def run(args: argparse.Namespace) -> int:
    """Prints the completion; a command whose packages are missing is completed by name only."""
    parser = build_parser()
    for command in _commands(parser):
        try:
            command.load()
        except ConfigError:
            continue
    print(shtab.complete(parser, args.shell))
    return 0


def _commands(parser: CommandParser) -> Iterator[CommandParser]:
    """Yields a parser and those of its subcommands, outer ones first."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _commands(inner)
