"""Command lines drawn from the parsers themselves: every option of every command, with good, odd
and hostile values.

A line is a template, which holds what a command needs to do something small, with some mutations.
Options, their types and choices come from the parser, settings from their schemas: a new option is
drawn at once.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from tests.stress.commands import values
from wbcnets.cli.main import CommandParser, build_parser
from wbcnets.train.config import TrainConfig

# A line of these that is left as it is takes a second
LONG = ("train", "evaluate", "predict")


class Command(NamedTuple):
    """One command.

    Args:
        words: Those that call it, such as ("train", "cells").
        parser: Its parser.
    """

    words: tuple[str, ...]
    parser: argparse.ArgumentParser

    @property
    def options(self) -> list[argparse.Action]:
        """The options that start with a dash."""
        return [action for action in self.parser._actions if action.option_strings]


@cache
def commands() -> tuple[Command, ...]:
    """Returns all commands, with their modules loaded."""
    return tuple(_walk((), build_parser()))


def _walk(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[Command]:
    if isinstance(parser, CommandParser):
        parser.load()
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield Command(words, parser)
    for group in groups:
        for name, inner in group.choices.items():
            yield from _walk((*words, name), inner)


def draw_line(seed: int, number: int) -> list[str]:
    """Returns the words of one command line; the same for the same seed and number."""
    generator = random.Random(f"{seed}/{number}")
    command = generator.choices(commands(), [values.weight(c.words) for c in commands()])[0]
    parts = _template(command, generator)
    counts = (1, 12, 8, 5, 3, 2) if command.words[0] in LONG else (5, 8, 8, 5, 3, 2)
    for _ in range(generator.choices(range(6), counts)[0]):
        mutation = generator.choices(MUTATIONS, (8, 5, 2, 1, 1, 1, 1))[0]
        mutation(parts, command, generator)
    words = [*command.words, *itertools.chain(*parts)]
    if generator.random() < 0.01:
        words.pop(generator.randrange(len(words)))
    words += values.limits(command.words, generator)
    # Arguments of a process hold no null bytes
    return [word.replace("\0", "") for word in words]


def _template(command: Command, generator: random.Random) -> list[list[str]]:
    """Returns the parts of a line: an option with its values each, or one positional argument."""
    text = generator.choice(values.templates(command.words))
    parts: list[list[str]] = []
    for word in text.split():
        value = values.draw(word[1:-1], generator) if word.startswith("{") else word
        if word.startswith("--") or not parts or len(parts[-1]) != 1 or parts[-1][0][:2] != "--":
            parts.append([value])
        else:
            parts[-1].append(value)
    for action in command.parser._actions:
        if action.required and not text:
            parts.append(_use(action, generator))
    return parts


def _use(action: argparse.Action, generator: random.Random) -> list[str]:
    """Returns an option with values that may fit."""
    names = [generator.choice(action.option_strings)] if action.option_strings else []
    if action.nargs == 0:
        return names
    most = 3 if action.nargs in ("+", "*") else 1
    return names + [value_of(action, generator) for _ in range(generator.randint(1, most))]


def value_of(action: argparse.Action, generator: random.Random) -> str:
    """Returns a value for an option: often a good one, by its choices, type or purpose."""
    if generator.random() < 0.25:
        return values.draw("odd", generator)
    if action.choices and not isinstance(action, argparse._SubParsersAction):
        return str(generator.choice(list(action.choices)))
    if action.metavar == "KEY=VALUE":
        return setting(generator)
    if action.metavar == "KEY VALUE":
        return detector_setting(generator)
    kind = getattr(action.type, "__name__", "")
    if kind in ("int", "whole number"):
        return values.draw("integer", generator)
    if kind in ("float", "probability"):
        return values.draw("number", generator)
    return values.draw(values.pool_of(action.dest), generator)


def setting(generator: random.Random) -> str:
    """Returns KEY=VALUE for a training of cells, with a key of the settings' schema."""
    name, annotation = generator.choice(_schema_keys())
    if generator.random() < 0.05:
        name = generator.choice(
            (name.upper(), name + ".x", name.partition(".")[0], "", "__class__")
        )
    return f"{name}={_setting_value(annotation, generator)}"


@cache
def _schema_keys() -> tuple[tuple[str, Any], ...]:
    keys = []
    for section, field in TrainConfig.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for name, entry in inner.model_fields.items():
                keys.append((f"{section}.{name}", entry.annotation))
        else:
            keys.append((section, inner))
    return tuple(keys)


def _setting_value(annotation: Any, generator: random.Random) -> str:
    if generator.random() < 0.3:
        return values.draw("odd", generator)
    if get_origin(annotation) is Literal:
        return str(generator.choice(get_args(annotation)))
    pools: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "setting"}
    return values.draw(pools.get(annotation, "yaml"), generator)


def detector_setting(generator: random.Random) -> str:
    """Returns a key of the detector's config, or a value for one."""
    if generator.random() < 0.5:
        return generator.choice(_detector_keys())
    pool = generator.choice(("boolean", "integer", "number", "yaml", "setting", "odd"))
    return values.draw(pool, generator)


@cache
def _detector_keys() -> tuple[str, ...]:
    from mfds_detr.config import read_config

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield from walk(value, f"{prefix}{key}.") if hasattr(value, "items") else [prefix + key]

    return tuple(walk(read_config("", []), ""))


Parts = list[list[str]]


def _add(parts: Parts, command: Command, generator: random.Random) -> None:
    action = generator.choice(command.parser._actions)
    used = _use(action, generator)
    if action.metavar == "KEY VALUE":
        used = [generator.choice(_detector_keys()), detector_setting(generator)]
    parts.insert(generator.randint(0, len(parts)), used)


def _change(parts: Parts, command: Command, generator: random.Random) -> None:
    """Replaces a value by one of any kind."""
    if parts:
        part = generator.choice(parts)
        part[-1] = values.draw(generator.choice(tuple(values.POOLS)), generator)


def _reuse(parts: Parts, command: Command, generator: random.Random) -> None:
    """Names an input as an output, or the reverse."""
    if len(parts) > 1:
        one, other = generator.sample(parts, 2)
        one[-1] = other[-1]


def _drop(parts: Parts, command: Command, generator: random.Random) -> None:
    if parts:
        parts.pop(generator.randrange(len(parts)))


def _repeat(parts: Parts, command: Command, generator: random.Random) -> None:
    if parts:
        parts.insert(generator.randint(0, len(parts)), list(generator.choice(parts)))


def _damage(parts: Parts, command: Command, generator: random.Random) -> None:
    """Changes one character of a word, or cuts it."""
    if parts and (part := generator.choice(parts)):
        position = generator.randrange(len(part))
        word = part[position]
        cut = generator.randint(0, len(word))
        inserted = generator.choice(("", "\n", "-", "=", ",", "/", "..", "é", "0", "\udcff"))
        part[position] = word[:cut] + inserted + word[cut + 1 :]


def _stray(parts: Parts, command: Command, generator: random.Random) -> None:
    parts.insert(generator.randint(0, len(parts)), [values.draw("odd", generator)])


Mutation = Callable[[Parts, Command, random.Random], None]
MUTATIONS: tuple[Mutation, ...] = (_add, _change, _reuse, _drop, _repeat, _damage, _stray)
