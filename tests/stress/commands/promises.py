"""Promises of a command for any command line, as checks of an outcome."""

import argparse
import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

EXIT_CODES = (0, 1, 2, 130)
SECONDS = 60.0
PROCESSES = 40
_ERROR = re.compile(
    r"^(error: |usage: |[\w. -]+: error: |stopped|interrupted|.*ERROR)", re.MULTILINE
)
_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CRASH = re.compile(r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error")
# Beside a table of predictions
_BESIDE = ("unreadable.csv",)
# Outputs of lines that name none
_DEFAULTS = ("output", "predictions.csv", "unreadable.csv", "datasets")


@dataclass
class Outcome:
    """The end of one command line, and the changes that it made.

    Args:
        words: The words after ``wbcnets``.
        code: Exit code; None if the process died or was stopped.
        error: The exception that came out, with its traceback; "" if none did.
        seconds: Duration.
        stdout: Standard output.
        stderr: Standard error.
        missing: Promised results that are not there or not whole.
        changed: Files that were there before and are not the same now.
        created: Files that were not there before.
        processes: The most processes that were seen at once.
        leftovers: Files left in the folder of temporary files.
        payload: Whether a payload was run.
        work: The folder that the line ran in.
    """

    words: list[str]
    code: int | None = None
    error: str = ""
    seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    processes: int = 0
    leftovers: list[str] = field(default_factory=list)
    payload: bool = False
    work: Path = Path()


def broken_promises(outcome: Outcome) -> list[str]:
    """Returns what an outcome breaks, a line each; an empty list if it keeps all promises."""
    broken = []
    if outcome.code not in EXIT_CODES:
        broken.append(f"exit code {outcome.code} after {outcome.seconds:.0f} s")
    if outcome.error or _CRASH.search(outcome.stderr + outcome.stdout):
        last = (outcome.error or outcome.stderr).strip().splitlines()[-1:]
        broken.append(f"traceback: {' '.join(last)}")
    # The findings of a check are its output, and so is the log of a detector's training
    said = outcome.stderr + (outcome.stdout if "smears" in outcome.words else "")
    if outcome.code == 2 and not _ERROR.search(said) and outcome.words[:1] != ["check"]:
        broken.append("exit code 2 without a line 'error: ...'")
    if outcome.code == 2 and not _names_something(outcome):
        broken.append(f"the error names nothing of the call: {outcome.stderr.strip()[-200:]}")
    if outcome.seconds > SECONDS:
        broken.append(f"took {outcome.seconds:.0f} s")
    if outcome.processes > PROCESSES:
        broken.append(f"started {outcome.processes} processes")
    broken += [f"exit code 0, but {reason}" for reason in outcome.missing]
    broken += [f"changed {path}" for path in outcome.changed if not _owns(outcome, path)]
    broken += [f"wrote {path}, which it was not told" for path in _undeclared(outcome)]
    broken += [f"left the temporary file {path}" for path in outcome.leftovers]
    if outcome.payload:
        broken.append("ran a payload")
    return broken


def _names_something(outcome: Outcome) -> bool:
    """Returns whether the message shares a word with the call, or names an option."""
    message = outcome.stderr + outcome.stdout
    message = message.encode("utf-8", "backslashreplace").decode()
    known, said = ({*_WORDS.findall(text)} for text in (" ".join(outcome.words), message))
    plain = [word.encode(errors="ignore").decode() for word in outcome.words]
    symbols = [word for word in plain if not re.search(r"\w", word)]
    return (
        bool(known & said)
        or any(text in message for word in symbols for text in (word.strip(), repr(word)[1:-1]))
        or "--" in message
        or "arguments" in message
    )


# Results of earlier calls that the same command may replace or continue, with what it must be told
_OWNERS = {
    "earlier/cells": ("train", "cells", "--resume"),
    "earlier/smears": ("train", "smears", "--resume"),
    "earlier/evaluation": ("evaluate", "cells"),
    "earlier/predictions.csv": ("predict", "cells"),
    "data/smears": ("smears",),
}


def _owns(outcome: Outcome, path: str) -> bool:
    """Returns whether the command wrote the file in an earlier call and may write it again."""
    return any(
        (path == result or path.startswith(f"{result}/"))
        and set(needed) <= set(outcome.words)
        and any(_inside(outcome, Path(word[:4000])) == result for word in outcome.words)
        for result, needed in _OWNERS.items()
    )


def _undeclared(outcome: Outcome) -> list[str]:
    """Returns the new files that no word of the line names as an output."""
    named = [part for word in outcome.words for part in (word, word.partition("=")[2]) if part]
    paths = [Path(name[:4000]) for name in (*named, *_DEFAULTS)]
    allowed = {parent for path in paths for parent in path.parents}
    allowed |= {path.parent / name for path in paths for name in _BESIDE}
    exact = {_inside(outcome, path) for path in allowed}
    roots = {_inside(outcome, path) for path in paths} - {"."}
    # Beside a file lie its configuration and its checksum
    stems = {os.path.splitext(root)[0] for root in roots}
    return [
        path
        for path in outcome.created
        if path not in exact
        and os.path.splitext(path)[0] not in stems
        and not any(path == root or path.startswith((f"{root}/", f"{root}.")) for root in roots)
    ]


def _inside(outcome: Outcome, path: Path) -> str:
    return os.path.relpath(os.path.realpath(outcome.work / path), outcome.work)


def command_of(words: list[str]) -> tuple[str, ...]:
    """Returns the words that call the command, such as ("train", "cells")."""
    return tuple(words[: 2 if words[:1] and words[0] in PAIRS else 1])


def missing_results(words: list[str], args: argparse.Namespace) -> list[str]:
    """Returns the promised results of a line with exit code 0 that are not there or not whole."""
    check = _RESULTS.get(command_of(words))
    if check is None or "--help" in words or "-h" in words:
        return []
    try:
        check(args)
    except (OSError, ValueError, AssertionError, KeyError, StopIteration) as error:
        return [f"{type(error).__name__}: {error}"]
    return []


PAIRS = ("train", "evaluate", "predict", "export", "prepare")


def _check(args: argparse.Namespace) -> None:
    if args.json is not None:
        assert json.loads(args.json.read_text()), "no findings"
    if args.fix_to is not None:
        assert (args.fix_to / "repairs.txt").is_file(), "no repairs.txt"


def _prepare(args: argparse.Namespace) -> None:
    if args.output is not None:
        assert (args.output / "report.txt").read_text(), "empty report"


def _train_cells(args: argparse.Namespace) -> None:
    if not args.print_config and args.output is not None:
        _weights(args.output / "best.pth")


def _train_smears(args: argparse.Namespace) -> None:
    if args.output is not None and "OUTPUT_DIR" not in args.opts and not args.eval_only:
        _weights(args.output / "model_final.pth")


def _weights(path: Path) -> None:
    from wbcnets.io.checkpoints import read_checkpoint

    assert read_checkpoint(path), "no weights"


def _evaluate(args: argparse.Namespace) -> None:
    found = list(args.output.glob("*.json"))
    assert found, "no metrics"
    for path in found:
        json.loads(path.read_text())


def _predict_cells(args: argparse.Namespace) -> None:
    from wbcnets.io.image_sources import find_image_sources

    with args.output.open(newline="") as stream:
        rows = list(csv.reader(stream))
    images = len(find_image_sources(args.input))
    assert len(rows) == images + 1, f"{len(rows) - 1} rows for {images} images"
    assert len({len(row) for row in rows}) == 1, "rows of different lengths"


def _predict_smears(args: argparse.Namespace) -> None:
    json.loads((args.output / "predictions.json").read_text())
    assert (args.output / "counts.csv").read_text(), "no counts"


def _export(args: argparse.Namespace) -> None:
    if args.output.is_dir():
        json.loads((args.output / "config.json").read_text())
        _weights(args.output / "model.safetensors")
    else:
        _weights(args.output)


def _smears(args: argparse.Namespace) -> None:
    found = json.loads((args.output / "annotations.json").read_text())["images"]
    assert len(found) == args.images, f"{len(found)} of {args.images} images"
    for image in found:
        assert (args.output / "images" / image["file_name"]).stat().st_size, image
    assert args.preview is None or args.preview.stat().st_size, "no preview"


def _datasets(args: argparse.Namespace) -> None:
    from PIL import Image

    if args.action == "show":
        with Image.open(args.output) as image:
            image.load()


def _benchmark(args: argparse.Namespace) -> None:
    assert args.list or (args.output / "README.txt").is_file(), "no results"


_RESULTS: dict[tuple[str, ...], Callable[[argparse.Namespace], None]] = {
    ("check",): _check,
    ("train", "cells"): _train_cells,
    ("train", "smears"): _train_smears,
    ("evaluate", "cells"): _evaluate,
    ("evaluate", "smears"): _evaluate,
    ("predict", "cells"): _predict_cells,
    ("predict", "smears"): _predict_smears,
    ("export", "cells"): _export,
    ("export", "smears"): _export,
    ("smears",): _smears,
    ("datasets",): _datasets,
    ("benchmark",): _benchmark,
    ("prepare", "cells"): _prepare,
    ("prepare", "bccd"): _prepare,
}
