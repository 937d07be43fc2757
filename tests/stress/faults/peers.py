"""Runs the same faults through Detectron2 and torchvision, which do not promise to check data.

Each case runs in its own process, because some of them end it.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import warnings
from pathlib import Path

from tests.stress.faults.case import Case

SECONDS = 30
CLEAR, UNCLEAR, WARNED, SILENT, CRASHED, HUNG = (
    "clear error",
    "error without file and item",
    "warning",
    "silent",
    "ended the process",
    "hung",
)


def is_for(peer: str, case: Case) -> bool:
    """Returns whether a peer reads such input: both read COCO, torchvision class folders, too."""
    if case.expected == "accept" or case.reader not in ("check", "training"):
        return False
    if any(key in case.options for key in ("policy", "class_names", "group_pattern")):
        return False
    name = case.id.split("-")[0]
    if name.startswith("I") or (name.startswith("D") and int(name[1:]) <= 34):
        return True
    return peer == "torchvision" and name.startswith(("D6", "D7")) and "table" not in case.title


def run_peer(peer: str, case: Case, folder: Path) -> str:
    """Returns the peer's answer to a fault, one of the constants above."""
    path = case.make(folder)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(peer, path, sender))
    process.start()
    sender.close()
    answer = None
    if receiver.poll(SECONDS):
        with contextlib.suppress(EOFError):
            answer = receiver.recv()
    elif process.is_alive():
        answer = HUNG
    process.kill()
    process.join()
    return answer or CRASHED


def _work(peer: str, path: Path, sender) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    lines = io.StringIO()
    logging.basicConfig(stream=lines, level=logging.WARNING, force=True)
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).propagate = True
    read = {"detectron2": _detectron2, "torchvision": _torchvision}[peer]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            read(path)
        except BaseException as error:
            sender.send(CLEAR if _names(str(error), path) else UNCLEAR)
            return
    # PyTorch warns about valid data, too
    has_warned = lines.getvalue() or any("PIL" in entry.filename for entry in warned)
    sender.send(WARNED if has_warned else SILENT)


def _names(text: str, path: Path) -> bool:
    """Returns whether a message names the annotation file or an image."""
    folder = path.parent / "images" if path.is_file() else path
    names = [file.name for file in folder.rglob("*") if file.is_file()]
    if path.is_file():
        names += [path.name, "a.png"]  # some cases remove it
    return any(name in text for name in names)


def _detectron2(path: Path) -> None:
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T
    from detectron2.data.build import filter_images_with_only_crowd_annotations
    from detectron2.data.datasets import load_coco_json

    records = load_coco_json(str(path), str(path.parent / "images"), "fault")
    records = filter_images_with_only_crowd_annotations(records)
    mapper = DatasetMapper(
        is_train=True, augmentations=[T.ResizeShortestEdge(48)], image_format="RGB"
    )
    for record in records:
        mapper(record)


def _torchvision(path: Path) -> None:
    from torchvision.datasets import CocoDetection, ImageFolder

    if path.is_dir():
        for image, _ in ImageFolder(str(path)):
            image.load()
        return
    for image, _ in CocoDetection(str(path.parent / "images"), str(path)):
        image.load()
