"""A folder with small valid, odd, damaged and hostile files, and what belongs to other people.

``build`` writes it with the package's own commands. Nothing in it may change: a command may write
only what its command line names as an output.
"""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from PIL import Image

from tests.conftest import PROJECT, TINY
from tests.stress.faults import builders

# Settings with which a training takes a second
TINY_CELLS = [
    *("model.name=test_resnet", "data.img_size=32", "data.workers=0", "training.batch_size=4"),
    *("device=cpu", "training.epochs=1"),
]
TINY_SMEARS = [
    *(str(part) for item in TINY.items() for part in item),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2", "TEST.SAMPLE_PICTURES", "0", "SOLVER.MAX_ITER", "1"),
]


class Sandbox(NamedTuple):
    """The folders of a sandbox.

    Args:
        root: Holds the others; nothing outside of it may change.
        work: The folder that commands run in.
    """

    root: Path
    work: Path

    @property
    def marker(self) -> Path:
        """The file that a payload writes; it must never exist."""
        return self.root / "payload" / "executed"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a command into the sandbox."""
        folders = {"HOME": "home", "TMPDIR": "temporary", "WBCNETS_CACHE": "cache"}
        folders["MPLCONFIGDIR"] = "cache"
        paths = {name: str(self.root / folder) for name, folder in folders.items()}
        return {**paths, "WBCNETS_DATASETS": str(self.work / "datasets")}


class Payload:
    """Writes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.marker), "w"))


def make_folders(root: Path) -> Sandbox:
    """Creates the empty folders of a sandbox."""
    sandbox = Sandbox(root, root / "work")
    for name in ("work/datasets", "payload", "home", "temporary", "cache"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return sandbox


def build(sandbox: Sandbox, main: Callable[[list[str]], int]) -> None:
    """Writes all files; the working directory must be the sandbox's.

    Args:
        sandbox: Its folders.
        main: Runs a command line of ``wbcnets`` and returns its exit code.
    """
    _write_data(Path("data"))
    _write_images(Path("pictures"))
    _write_archives(Path("archives"))
    _train(main)
    _write_weights(sandbox, Path("weights"))
    _write_configs(sandbox, Path("configs"))
    _write_others(Path("others"))
    _write_odd_paths(sandbox, Path("odd"))


def _write_data(folder: Path) -> None:
    for name in ["coco", "coco_other", "voc", "labelme", "yolo", "cells_made"]:
        (folder / name).mkdir(parents=True)
    builders.write_coco(folder / "coco")
    builders.write_coco(folder / "coco_other", _other_boxes)
    builders.write_voc(folder / "voc")
    builders.write_labelme(folder / "labelme")
    builders.write_yolo(folder / "yolo")
    builders.write_cells(folder / "cells_made", {"neutrophil": 6, "lymphocyte": 6})
    shutil.move(folder / "cells_made" / "cells", folder / "cells")
    (folder / "cells_made").rmdir()
    rows = [f"{path},{path.parent.name}" for path in sorted(folder.glob("cells/*/*.png"))]
    short = [row.replace(f"{folder}/", "", 1) for row in rows]
    (folder / "table.csv").write_text("\n".join(["file,label", *short]) + "\n")
    (folder / "table_odd.csv").write_text('file,label\ncells/gone.png,=1+1\n"a\nb",x\n')
    (folder / "empty").mkdir()
    damaged = folder / "damaged.json"
    damaged.write_text(json.dumps(builders.coco())[:200])
    deep = folder / "deep.json"
    deep.write_text("[" * 100_000)


def _other_boxes(data: dict) -> None:
    for number, image in enumerate(data["images"]):
        image["id"] = 10**30 + number
    for box in data["annotations"]:
        box["image_id"] = 10**30 + box["image_id"] - 1


def _write_images(folder: Path) -> None:
    folder.mkdir()
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        builders.picture(1, 40, 30).save(folder / f"good.{suffix}")
    builders.picture(1, 40, 30).save(folder / "animated.gif")
    for name in ("=1+1.png", "-a.png", "line\nbreak.png", f"{'n' * 250}.png", " .png", "ü😀.png"):
        builders.picture(2, 24, 24).save(folder / name)
    builders.picture(2, 24, 24).save(os.fsencode(folder) + b"/not_\xff_utf8.png", "PNG")
    Image.new("RGB", (10_000, 1)).save(folder / "flat.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("I;16", (20, 20), 4095).save(folder / "twelve_bits.tif")
    Image.new("CMYK", (20, 20)).save(folder / "cmyk.jpg")
    good = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "list.txt").write_text("good.png\n./good.png\ngone.png\n\n")
    (folder / "list_marked.txt").write_bytes(b"\xef\xbb\xbfgood.png\r\n")
    (folder / "list_itself.txt").write_text(
        "list_itself.txt\n../../../etc/hostname\n/etc/hostname\n"
    )


def _write_archives(folder: Path) -> None:
    folder.mkdir()
    shutil.make_archive(str(folder / "cells"), "zip", "data", "cells")
    shutil.make_archive(str(folder / "cells_tar"), "gztar", "data", "cells")
    image = Path("pictures/good.png").read_bytes()
    for name, members in {
        "outside": ["../../outside.png", "/tmp/outside.png", "neutrophil/a.png"],
        "twice": ["neutrophil/a.png", "neutrophil/a.png", "lymphocyte/b.png"],
        "names": ["neutrophil/a\n.png", "neutrophil/CON", "neutrophil/" + "n" * 300 + ".png"],
        "images": ["a.png", "b/c.png"],
    }.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member in members:
                archive.writestr(member, image)
    link = zipfile.ZipInfo("neutrophil/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("neutrophil/a.png", bytes(30_000_000))
    whole = (folder / "cells.zip").read_bytes()
    (folder / "cut.zip").write_bytes(whole[: len(whole) // 2])


def _train(main: Callable[[list[str]], int]) -> None:
    """Runs the commands whose results others read."""
    smears = "--size 64x64 --images 3 --magnification 0.2"
    coco = "fuzz=data/coco/train.json:data/coco/images"
    data = ["--dataset", coco, "DATASETS.TRAIN", "('fuzz',)", "DATASETS.TEST", "('fuzz',)"]
    config = ["--config-file", str(PROJECT / "configs" / "mfds_detr_tiny_base.yaml")]
    weights = "earlier/cells/best.pth"
    for words in (
        f"smears --output data/smears {smears}".split(),
        ["prepare", "cells", "--source", "data/cells", "--output", "datasets/made", "--seed", "1"],
        ["train", "cells", "--data", "made", "--output", "earlier/cells", *TINY_CELLS],
        f"export cells --weights {weights} --output weights/cells.safetensors".split(),
        f"export cells --weights {weights} --output weights/cells_folder".split(),
        f"evaluate cells --weights {weights} --data made --output earlier/evaluation".split(),
        f"predict cells --weights {weights} --input pictures/good.png"
        " --output earlier/predictions.csv".split(),
        ["train", "smears", *config, *data, "--output", "earlier/smears", *TINY_SMEARS],
        ["export", "smears", "--weights", "earlier/smears/model_final.pth",
         "--output", "weights/smears.safetensors"],
    ):  # fmt: skip
        code = main(words)
        assert code == 0, f"building the sandbox: {' '.join(words)} exits with {code}"


def _write_weights(sandbox: Sandbox, folder: Path) -> None:
    trained = Path("earlier/cells/best.pth")
    whole = trained.read_bytes()
    shutil.copy(trained, folder / "cells.pth")
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    (folder / "flipped.pth").write_bytes(flipped)
    (folder / "empty.pth").write_bytes(b"")
    (folder / "page.pth").write_text("<!DOCTYPE html><html></html>")
    payload = Payload(sandbox.marker)
    torch.save({"state_dict": payload}, folder / "payload.pth")
    (folder / "payload.pkl").write_bytes(pickle.dumps({"model": payload}, 2))
    torch.save(torch.nn.Conv2d(3, 4, 3), folder / "module.pth")
    hostile = folder / "payload_folder"
    shutil.copytree(folder / "cells_folder", hostile)
    (hostile / "model.safetensors").unlink()
    (hostile / "pytorch_model.bin").write_bytes(pickle.dumps(payload))
    state = torch.load(trained, weights_only=True)
    for number, change in enumerate(ODD_METADATA):
        torch.save({**state, "metadata": {**state.get("metadata", {}), **change}},
                   folder / f"odd_{number}.pth")  # fmt: skip
    tensors = {"a": torch.zeros(2)}
    for number, metadata in enumerate(({"class_names": "abc"}, {"wbcnets": "{"}, {})):
        content = safetensors.torch.save(tensors, metadata)
        (folder / f"odd_{number}.safetensors").write_bytes(content)


ODD_METADATA: tuple[dict, ...] = (
    {"model": 5},
    {"class_names": "abc"},
    {"class_names": [1, None]},
    {"class_names": ["a\nb", "=1"]},
    {"img_size": 40_000},
    {"mean": [0, 1]},
    {"kwargs": {"checkpoint_path": "weights/payload.pth"}},
    {"kwargs": {"pretrained_cfg": {"file": "weights/payload.pth"}}},
)


def _write_configs(sandbox: Sandbox, folder: Path) -> None:
    folder.mkdir()
    attack = f"!!python/object/apply:builtins.open ['{sandbox.marker}', 'w']"
    for name, text in {
        "good": "model: {name: test_resnet}\ntraining: {epochs: 1}\ndata: {img_size: 32}\n",
        "payload": f"model: {attack}\n",
        "pretrained": "model: {kwargs: {checkpoint_path: weights/payload.pth}}\n",
        "unknown": "modle: {}\n1: 2\n",
        "list": "- 1\n",
        "empty": "",
        "twice": "device: cpu\ndevice: cpu\n",
        "bomb": "a: &a [x, x]\n" + "".join(
            f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnop", "bcdefghijklmnopq")
        ),
        "base": "_BASE_: base.yaml\n",
        "detector": f"_BASE_: {PROJECT}/configs/mfds_detr_tiny_base.yaml\n",
        "detector_payload": f"MODEL:\n  WEIGHTS: {attack}\n",
        "map": "neutrophil: neutrophil\nlymphocyte: lymphocyte\n",
    }.items():  # fmt: skip
        (folder / f"{name}.yaml").write_text(text)
    (folder / "config.py").write_text(f"open({str(sandbox.marker)!r}, 'w')\n")


def _write_others(folder: Path) -> None:
    """Writes files that commands write, too, but that other people wrote."""
    (folder / "full").mkdir(parents=True)
    for name in ("README.txt", "log.csv", "unreadable.csv", "predictions.csv", "config.yaml"):
        (folder / "full" / name).write_text("mine\n")
    for name in ("results.json", "sheet.png", "model.safetensors", "model.pth", "notes"):
        (folder / name).write_text("mine\n")
    (folder / "unreadable.csv").write_text("mine\n")


def _write_odd_paths(sandbox: Sandbox, folder: Path) -> None:
    folder.mkdir()
    os.symlink("loop", folder / "loop")
    os.symlink("gone", folder / "dangling")
    os.symlink("../others", folder / "to_others")
    os.symlink("../weights/cells.pth", folder / "to_weights")
    os.mkfifo(folder / "pipe")
    (folder / "closed").mkdir()
    (folder / "closed" / "a.png").write_bytes(io.BytesIO().getvalue())
    (folder / "closed").chmod(0)
    (folder / "unreadable.json").write_text("{}")
    (folder / "unreadable.json").chmod(0)
    (folder / "readonly").mkdir()
    (folder / "readonly").chmod(0o555)
