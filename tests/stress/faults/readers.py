"""The readers of the product that faults go through, each giving one kind of answer."""

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from tests.stress.faults.case import Case
from wbcnets.data.check import CheckOptions, check_datasets
from wbcnets.errors import WbcnetsError


class Outcome(NamedTuple):
    """The answer to a fault.

    Args:
        kind: One of `tests.stress.faults.case.ANSWERS`, or "wrong text" if the answer is of the
            expected kind but does not match the pattern, "silent" if the fault went unnoticed,
            "traceback" if an error came out that is not one of the library's own.
        text: The message.
    """

    kind: str
    text: str


def run_case(case: Case, path: Path) -> Outcome:
    """Sends a fault through its reader and compares the answer with the expected one."""
    try:
        kind, text = READERS[case.reader](case, path)
    except WbcnetsError as error:
        kind, text = "error", str(error)
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    matches = re.search(case.pattern, text) is not None
    if kind == "accept" and case.expected != "accept":
        # A note leaves the input usable: only its text tells it from silence
        return Outcome("note" if case.expected == "note" and matches else "silent", text)
    if kind == case.expected and not matches:
        return Outcome("wrong text", text)
    return Outcome(kind, text)


def _check(case: Case, path: Path) -> Outcome:
    result = check_datasets([path], CheckOptions(**case.options))
    text = result.summary()
    if result.exit_code:
        return Outcome("error", text)
    repaired = any(entry.repaired or entry.dropped or entry.dropped_images for entry in result.sets)
    return Outcome("repair" if repaired else "accept", text)


def _command(case: Case, path: Path) -> Outcome:
    from wbcnets.cli.main import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(["check", str(path)])
    return Outcome("error" if code else "accept", shown.getvalue())


def _classifier(case: Case, path: Path) -> Outcome:
    from wbcnets.train.config_file import load_config
    from wbcnets.train.run import train_classifier

    settings = [f"data.source={path}", f"output={path.parent / 'run'}", "model.name=test_resnet"]
    train_classifier(load_config("", [*settings, "data.img_size=32", "device=cpu"]))
    return Outcome("accept", "")


def _medmnist(case: Case, path: Path) -> Outcome:
    from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
    from wbcnets.data.prepare.bloodmnist import list_bloodmnist

    list_bloodmnist(path, CLASSIFICATION_CARDS["bloodmnist"], path.parent / "unpacked")
    return Outcome("accept", "")


def _training(case: Case, path: Path) -> Outcome:
    """Returns the warnings of the detector's training before its first step."""
    from mfds_detr.config import read_config
    from mfds_detr.data.datasets import DatasetSource, register_datasets
    from mfds_detr.engine.run import fit_config

    cfg = read_config("", ["MODEL.MFDS_DETR.NUM_CLASSES", "2"])
    source = DatasetSource("fault", path, path.parent / "images")
    with logged("mfds_detr") as lines:
        datasets = register_datasets(["fault"], [], [source], path.parent / "cache")
        fit_config(cfg, datasets["fault"].class_names, ["fault"], ["fault"])
    return Outcome("accept", "\n".join(lines))


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


def _load_classifier(case: Case, path: Path) -> Outcome:
    from wbcnets.evaluation.classifier import load_classifier

    load_classifier(path, device="cpu")
    return Outcome("accept", "")


def _classifier_model(case: Case, path: Path) -> Outcome:
    from wbcnets.train.config_file import load_config
    from wbcnets.train.model import create_classifier

    create_classifier(load_config(str(path), ["data.source=x", "output=y"]), 2)
    return Outcome("accept", "")


def _detector_backbone(case: Case, path: Path) -> Outcome:
    from detectron2.modeling import build_backbone

    import mfds_detr.modeling.backbone  # noqa: F401
    from mfds_detr.config import read_config

    build_backbone(read_config(str(path), ["MODEL.BACKBONE.NAME", "build_timm_backbone"]))
    return Outcome("accept", "")


READERS: dict[str, Callable[[Case, Path], Outcome]] = {
    "check": _check,
    "command": _command,
    "classifier": _classifier,
    "medmnist": _medmnist,
    "training": _training,
    "checkpoint": _checkpoint,
    "model": _model,
    "config": _config,
    "detector config": _detector_config,
    "load classifier": _load_classifier,
    "classifier model": _classifier_model,
    "detector backbone": _detector_backbone,
}
NEEDS_DETECTRON2 = ("training", "detector config", "detector backbone")


@contextlib.contextmanager
def logged(name: str) -> Iterator[list[str]]:
    """Collects the warnings of a logger."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
