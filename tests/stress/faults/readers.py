"""The doors of the product that faults go through, each giving one kind of answer."""

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.stress.faults.case import Case
from wbcnets.data.check import CheckOptions, check_datasets
from wbcnets.errors import WbcnetsError


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Args:
        answer: "error", "repair", "note", "accept"; "silent" where a fault had no answer, and
            "traceback" where an error came that was not meant for people.
        text: What was said.
    """

    answer: str
    text: str


def answer_of(case: Case, path: Path) -> Outcome:
    """Sends a fault through its door."""
    try:
        outcome = DOORS[case.reader](case, path)
    except WbcnetsError as error:
        outcome = Outcome("error", str(error))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    if case.answer == outcome.answer and re.search(case.text, outcome.text):
        return outcome
    if case.answer == "accept" or outcome.answer in ("traceback", "error"):
        return outcome
    return Outcome("silent", outcome.text)


def _check(case: Case, path: Path) -> Outcome:
    result = check_datasets([path], CheckOptions(**case.options))
    text = result.summary()
    if result.exit_code:
        return Outcome("error", text)
    changed = [line for entry in result.sets for line in _changed(entry)]
    if changed:
        return Outcome("repair", text)
    expected = case.answer == "note" and re.search(case.text, text)
    return Outcome("note" if expected else "accept", text)


def _changed(entry) -> list[str]:
    return [*entry.repaired, *entry.dropped, *entry.dropped_images]


def _command(case: Case, path: Path) -> Outcome:
    from wbcnets.__main__ import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(["check", str(path)])
    return Outcome("error" if code else "accept", shown.getvalue())


def _classifier(case: Case, path: Path) -> Outcome:
    from wbcnets.train.config_file import load_config
    from wbcnets.train.run import train_classifier

    settings = [f"data.source={path}", f"output={path.parent / 'run'}", "model.name=test_resnet"]
    train_classifier(load_config("", [*settings, "data.image_size=32", "device=cpu"]))
    return Outcome("accept", "")


def _medmnist(case: Case, path: Path) -> Outcome:
    from wbcnets.data.cards.cells import CELL_CARDS
    from wbcnets.data.cells.medmnist import unpack_medmnist

    unpack_medmnist(path, CELL_CARDS["bloodmnist"], path.parent / "unpacked")
    return Outcome("accept", "")


def _training(case: Case, path: Path) -> Outcome:
    """What the detector's training says before it begins."""
    import train_net

    from mfds_detr.config import read_config
    from mfds_detr.data.datasets import DatasetSource, register_datasets

    cfg = read_config("", ["MODEL.MFDS_DETR.NUM_CLASSES", "2"])
    source = DatasetSource("fault", path, path.parent / "images")
    with logged("mfds_detr") as lines:
        datasets = register_datasets(["fault"], [], [source], path.parent / "cache")
        train_net.fit_config(cfg, datasets["fault"].class_names, ["fault"], ["fault"])
    return Outcome("note" if lines else "accept", "\n".join(lines))


def _checkpoint(case: Case, path: Path) -> Outcome:
    from wbcnets.io.checkpoints import read_checkpoint

    read_checkpoint(path)
    return Outcome("accept", "")


def _model(case: Case, path: Path) -> Outcome:
    from wbcnets.io.checkpoints import load_into

    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(3, 4, 3))
    load_into(model, path)
    return Outcome("accept", "")


def _config(case: Case, path: Path) -> Outcome:
    from wbcnets.train.config_file import load_config

    load_config(str(path), ["data.source=x", "output=y"])
    return Outcome("accept", "")


def _detector_config(case: Case, path: Path) -> Outcome:
    from mfds_detr.config import read_config

    read_config(str(path))
    return Outcome("accept", "")


DOORS: dict[str, Callable[[Case, Path], Outcome]] = {
    "check": _check,
    "command": _command,
    "classifier": _classifier,
    "medmnist": _medmnist,
    "training": _training,
    "checkpoint": _checkpoint,
    "model": _model,
    "config": _config,
    "detector config": _detector_config,
}
NEEDS_DETECTRON2 = ("training", "detector config")


@contextlib.contextmanager
def logged(name: str) -> Iterator[list[str]]:
    """The warnings that a logger writes."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
