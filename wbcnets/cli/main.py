"""The command ``wbcnets``: finds a command's module, runs it, and turns errors into exit codes.

A command is a module with a docstring, which becomes its help (the first paragraph above the
options, the rest below), ``add_arguments(parser)`` and ``run(args) -> int``. Its line in
``wbcnets --help`` is in ``COMMANDS`` or ``PAIRS``, because the module is imported only when it is
called. The detector's modules come from the entry points of the group ``wbcnets.smears``: wbcnets
itself never imports detectron2.

Exit codes: 0 done; 1 the data, or a part of the input, has problems; 2 the call or the
configuration is wrong, or the machine's limits are reached; 130 interrupted by Ctrl-C; 143 ended by
SIGTERM or SIGHUP.
"""

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from wbcnets.api import import_smears
from wbcnets.cli.streams import standard_streams
from wbcnets.engine.memory import describe_shortage
from wbcnets.engine.signals import SignalHandler, Terminated
from wbcnets.errors import DataError, WbcnetsError, explain_missing
from wbcnets.version import __version__

# Exit codes of processes that a signal ended, as shells give them
INTERRUPTED, TERMINATED = 130, 143
# Commands that exist for cells and for smears, then those that stand alone
PAIRS = {
    "train": ("train a classifier of cell images", "train a detector of cells in blood smears"),
    "evaluate": ("measure a classifier on labeled cells", "measure a detector on labeled smears"),
    "predict": ("classify cell images", "find and count the cells in images of smears"),
    "export": ("write a classifier as a small file", "write a detector as a small file"),
}
COMMANDS = {
    "check": "find every problem of datasets in one pass",
    "prepare": "bring a published dataset into the layout that training reads",
    "train": "train a classifier or a detector",
    "evaluate": "measure a trained model on labeled data",
    "predict": "run a trained model on images",
    "export": "write a trained model as a small file",
    "smears": "generate synthetic blood smears with exact boxes",
    "datasets": "list the known datasets, or draw some of their images",
    "benchmark": "measure speed and memory against peer implementations",
    "install-detectron2": "install the Detectron2 that the detector needs",
    "completion": "print the tab completion for bash or zsh",
}


class CommandParser(argparse.ArgumentParser):
    """A parser that imports its command when it is first used.

    Args:
        load: Imports the command's module; none for a group of commands.
        options: Those of ``argparse.ArgumentParser``.
    """

    def __init__(self, *, load: Callable[[], ModuleType] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)
        self._load = load

    def load(self) -> None:
        """Imports the command's module and adds its arguments, once.

        Raises:
            ConfigError: if a package that the command needs is missing.
        """
        if self._load is None:
            return
        module, self._load = self._load(), None
        self.description, _, self.epilog = (module.__doc__ or "").partition("\n\n")
        module.add_arguments(self)
        self.set_defaults(run=module.run, parser=self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does; options may also stand between a command's KEY=VALUE pairs."""
        if self._load is None:
            return super().parse_known_args(args, namespace)
        self.load()
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        return self.parse_known_intermixed_args(args, namespace)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions, and shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if str(action.default) in ("None", "False", "", "[]", "()"):
            return action.help
        return super()._get_help_string(action)


def build_parser() -> CommandParser:
    """Returns the parser of all commands; imports none of them."""
    parser = CommandParser(
        prog="wbcnets",
        description="Classifiers and detectors of white blood cells.",
        epilog="wbcnets COMMAND --help explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"wbcnets {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, summary in COMMANDS.items():
        if name not in PAIRS:
            module = f"wbcnets.cli.{name.replace('-', '_')}"
            commands.add_parser(name, help=summary, load=partial(import_command, module))
            continue
        group = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        kinds = group.add_subparsers(
            dest="kind", required=True, metavar="cells|smears", parser_class=CommandParser
        )
        module = f"wbcnets.cli.{name}_cells"
        cells, smears = PAIRS[name]
        kinds.add_parser("cells", help=cells, load=partial(import_command, module))
        kinds.add_parser("smears", help=smears, load=partial(import_smears, name))
    return parser


def import_command(name: str) -> ModuleType:
    """Returns a module of this package.

    Raises:
        ConfigError: if a package that it needs is missing.
    """
    with explain_missing():
        return importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``wbcnets``; returns its exit code.

    Args:
        arguments: The words after the command's name; those of this process by default.
    """
    return _run(build_parser(), arguments)


def run_command(module: ModuleType, arguments: Sequence[str] | None = None) -> int:
    """Runs one command on its own, as the scripts of a clone do; returns its exit code.

    Args:
        module: The command's module.
        arguments: The words after the script's name; those of this process by default.
    """
    return _run(CommandParser(load=lambda: module), arguments)


def _run(parser: CommandParser, arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = argparse.Namespace(command_line=shlex.join([parser.prog, *words]))
    with standard_streams(), SignalHandler(at_once=True) as signals:
        try:
            return _parse_and_run(parser, words, args)
        except KeyboardInterrupt as interruption:
            return _end_interrupted(interruption)
        except Exception as error:
            if signals.requested:  # what an interruption broke on its way
                return _end_interrupted(signals.interruption())
            if isinstance(error, (WbcnetsError, FloatingPointError, OSError)):
                print(f"error: {describe(error, getattr(args, 'parser', None))}", file=sys.stderr)
                return exit_code(error)
            shortage = describe_shortage(error)
            if shortage is None:
                raise
            print(f"error: {shortage}", file=sys.stderr)
            return 2


def _parse_and_run(parser: CommandParser, words: list[str], args: argparse.Namespace) -> int:
    try:
        parser.parse_args(words, args)
        code: int = args.run(args)
        return code
    finally:
        sys.stdout.flush()  # a full disk is an error of the command


def _end_interrupted(interruption: KeyboardInterrupt) -> int:
    is_term = isinstance(interruption, Terminated)
    print("terminated" if is_term else "interrupted", file=sys.stderr)
    return TERMINATED if is_term else INTERRUPTED


def exit_code(error: Exception) -> int:
    """Returns 1 if the data is the problem, 2 if the call or the configuration is."""
    return 1 if isinstance(error, DataError) else 2


def describe(error: Exception, parser: argparse.ArgumentParser | None) -> str:
    """Returns the text of an error, and the option that helps where the command has one."""
    setting = getattr(error, "setting", "")
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)):
        name = os.fsdecode(error.filename)
        return f"{name}: {error.strerror}; correct the path, or its permissions"
    for action in parser._actions if parser is not None and setting else ():
        if action.dest == setting and action.option_strings:
            separator = "\n" if "\n" in str(error) else "; "
            return f"{error}{separator}see {action.option_strings[-1]}"
    return str(error)
