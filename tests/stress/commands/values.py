"""Values for options: good ones from the sandbox, odd ones, hostile ones, and small templates.

Words in braces in a template are names of pools. A template holds what a command needs; the limits
after it keep what a command is asked for small: a training of a billion epochs is legal.
"""

import random

from tests.conftest import PROJECT
from tests.stress.commands.sandbox import TINY_CELLS, TINY_SMEARS

BASE = str(PROJECT / "configs" / "mfds_detr_tiny_base.yaml")

POOLS: dict[str, tuple[str, ...]] = {
    "odd": (
        *("", " ", "-", "--", "---", "-1", "0", "1e999", "nan", "inf", "-inf", "9" * 30, "1_000"),
        *("٣", "0x10", "1.5", "true", "null", "[]", "{}", "'", '"', "=", "a=b", "a=", "=b", "\n"),
        *("a\nb", "\t", "é", "😀", "\udcff", "\x1b[31m", "\x07", "%s%n", "{0}", "$(touch /x)"),
        *("../..", "*", "?", "[", "**/*", "~", "~root", "@args", "--help", "-h", "x" * 300),
        *("(?P<group>", "(", "\\", "C:\\x", "NUL", "/", ".", "..", "a:b", ":", "a:", ":b", "<!--"),
        *("x" * 5_000, "/".join("d" * 200 for _ in range(30)), "None", "True", "__class__", "1,2"),
    ),
    "path": (
        *("odd/loop", "odd/dangling", "odd/to_others", "odd/to_weights", "odd/pipe", "odd/closed"),
        *("odd/closed/a.png", "odd/unreadable.json", "odd/readonly", "odd/readonly/new", "gone"),
        *("gone/gone.json", "/dev/null", "/dev/full", "/dev/zero", "/dev/stdin", "/dev/tty"),
        *("/proc/self/mem", "/proc/self/fd/1", "/etc/passwd", "/etc/shadow", "/root", "/proc/new"),
        *("http://127.0.0.1:9/x.pth", "https://localhost/x.png", "file:///etc/passwd", "s3://a/b"),
        *("hf-hub:timm/test_resnet", "timm://test_resnet.r160_in1k", "detectron2://x.pkl"),
        *("pictures/good.png/below", "new/" + "n" * 256, "n" * 254 + ".csv", "."),
    ),
    "new": (
        *("new", "new/folder", "new.csv", "new.json", "new.png", "new.safetensors", "new.pth"),
        *("new folder", "nëw", "new\nline", "new.", ".new", "-new", "./new/../new2", "new.tar.gz"),
    ),
    "output": (
        *("new", "new/folder", "new.csv", "new.json", "new.safetensors", "others/full", "others"),
        *("others/results.json", "others/sheet.png", "others/model.safetensors", "others/new.csv"),
        *("earlier/cells", "earlier/smears", "earlier/evaluation", "earlier/predictions.csv"),
        *(
            "data/smears",
            "data/cells",
            "data/coco",
            "weights",
            "weights/cells.pth",
            "datasets/made",
        ),
        *("datasets/new", "pictures", "pictures/good.png", "data/coco/train.json", "archives"),
    ),
    "detection": (
        *("data/coco/train.json", "data/coco_other/train.json", "data/voc", "data/labelme"),
        *("data/yolo", "data/smears/annotations.json", "data/damaged.json", "data/deep.json"),
    ),
    "cells": (
        *("data/cells", "made", "data/table.csv", "archives/cells.zip", "datasets/made"),
        *("datasets/made/manifest.csv", "data/table_odd.csv"),
    ),
    "archive": tuple(
        f"archives/{name}"
        for name in (
            *("cells.zip", "cells_tar.tar.gz", "outside.zip", "twice.zip", "names.zip"),
            *("images.zip", "link.zip", "bomb.zip", "cut.zip"),
        )
    ),
    "images": (
        *("pictures", "pictures/good.png", "pictures/good.jpg", "pictures/good.tif", "data/cells"),
        *("pictures/*.png", "pictures/cut.png", "pictures/empty.png", "pictures/flat.png"),
        *("pictures/twelve_bits.tif", "pictures/=1+1.png", "pictures/line\nbreak.png"),
        *("pictures/list.txt", "pictures/list_marked.txt", "pictures/list_itself.txt"),
        *("archives/images.zip", "archives/names.zip", "data/coco/images", "pictures/animated.gif"),
        *("pictures/not_\udcff_utf8.png", "pictures/" + "n" * 250 + ".png", "./pictures/good.png"),
    ),
    "cells_weights": ("weights/cells.pth", "weights/cells.safetensors", "weights/cells_folder"),
    "smears_weights": ("earlier/smears/model_final.pth", "weights/smears.safetensors"),
    "weights": (
        *("weights/cells.pth", "weights/cells.safetensors", "weights/cells_folder"),
        *("earlier/smears/model_final.pth", "weights/smears.safetensors", "weights/cut.pth"),
        *("weights/flipped.pth", "weights/empty.pth", "weights/page.pth", "weights/payload.pth"),
        *("weights/payload.pkl", "weights/module.pth", "weights/payload_folder", "test_resnet"),
        *(f"weights/odd_{number}.pth" for number in range(8)),
        *(f"weights/odd_{number}.safetensors" for number in range(3)),
    ),
    "config": (
        *("resnet18_pbc_cpu", "mfds_detr_tiny_base", BASE, "configs/good.yaml"),
        *("configs/payload.yaml", "configs/pretrained.yaml", "configs/unknown.yaml"),
        *("configs/list.yaml", "configs/empty.yaml", "configs/twice.yaml", "configs/bomb.yaml"),
        *("configs/base.yaml", "configs/detector.yaml", "configs/detector_payload.yaml"),
        *("configs/map.yaml", "configs/config.py"),
    ),
    "integer": (
        *("0", "1", "1", "2", "3", "7", "-1", "1000000000", str(2**31), str(2**63), "9" * 30),
        *("1e3", "+1", " 1", "1.0"),
    ),
    "number": (
        *("0", "0.5", "1", "1", "2", "-1", "1e-9", "1e30", "1e308", "nan", "inf", "-0.0", "1e-400"),
    ),
    "boolean": ("true", "false", "True", "yes", "1", "null"),
    "setting": (
        *("adamw", "sgd", "lamb", "flips", "none", "cells", "train", "val", "8:2", "5 folds"),
        *("cross_entropy", "focal", "w_softmax", "test_resnet", "test_vit", "cpu", "cuda", "mps"),
        *(
            "meta",
            "xpu",
            "cuda:99",
            "auto",
            "random",
            "wright",
            "2.5",
            "64x48",
            "0x0",
            "99999x99999",
        ),
        *("neutrophil", "neutrophil,lymphocyte", "'(?P<group>[a-z]+)'", "made", "fold1+fold2"),
        *("hs_fpn/forward", "data/smear", "kan/forward"),
    ),
    "yaml": (
        *("[0.9]", "[0.9, 0.999]", "[nan, 0, 0]", "[0.5, 0.5, 0.5]", "{a: 1}", "[1, 2]", "null"),
        *("{cross_entropy: 1}", "{cross_entropy: nan}", "{cross_entropy: -1}", "{neutrophil: 3}"),
        *(
            "{neutrophil: 1000000000}",
            "{checkpoint_path: weights/payload.pth}",
            "[[]]",
            "{",
            "[{}]",
        ),
        *("!!python/object/apply:os.getcwd []", "[{name: GaussNoise}]", "[{name: __import__}]"),
        *("{drop_rate: 0.1}", "{num_classes: 0}", "('fuzz',)", "(1,)", "{in_chans: 0}", "1e-3"),
    ),
}

# Options of these names draw from these pools; all others from all kinds of values
_PURPOSES = {
    "paths": "detection", "images": "images", "input": "images", "weights": "weights",
    "data": "cells", "source": "archive", "output": "output", "json": "output",
    "fix_to": "output", "preview": "output", "config": "config", "config_file": "config",
    "class_map": "config", "compare_with": "output", "dataset": "path", "root": "path",
}  # fmt: skip

_COCO = "fuzz=data/coco/train.json:data/coco/images"
_TRAIN = f"--dataset {_COCO} DATASETS.TRAIN ('fuzz',) DATASETS.TEST ('fuzz',)"
_TEMPLATES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("check",): (
        "{detection}", "{cells}", "{archive}", "{detection} --json {output}",
        "{detection} --fix-to {new}", "data/coco/train.json --images data/coco/images",
        "{detection} {detection}", "{detection} --images {images}", "{path}",
    ),
    ("prepare", "cells"): (
        "--source {cells} --output {new}", "--source {archive} --output {new}",
        "--source {path} --output {output}",
    ),
    ("train", "cells"): (
        "--data {cells} --output {new} " + " ".join(TINY_CELLS),
        "--data {cells} --output {output} " + " ".join(TINY_CELLS),
        "--output earlier/cells --resume", "--config {config} --print-config",
    ),
    ("evaluate", "cells"): (
        "--weights {cells_weights} --data {cells} --output {new} --workers 0",
        "--weights {weights} --data {cells} --output {output} --workers 0",
    ),
    ("predict", "cells"): (
        "--weights {cells_weights} --input {images} --output {new}",
        "--weights {weights} --input {images} --output {output}",
    ),
    ("export", "cells"): (
        "--weights {cells_weights} --output {new}", "--weights {weights} --output {output}",
    ),
    ("smears",): (
        "--output {new} --images 1 --size 48x32 --magnification 0.2",
        "--output {output} --images 2 --size 48x32 --magnification 0.2 --preview {new}",
    ),
    ("datasets",): (
        "list", "show {detection} --images {images} --output {new}",
        "show data/coco/train.json --images data/coco/images --output {output}",
    ),
    ("benchmark",): (
        "--list", "--case hs_fpn/forward --output {output} --device {setting}",
        "--case {setting} --suite {odd}",
    ),
    ("completion",): ("bash", "zsh", "{odd}"),
    ("install-detectron2",): ("", "--sdist {archive} --force --dry-run", "--dry-run"),
    ("train", "smears"): (
        f"--config {BASE} --output {{new}} {_TRAIN}",
        f"--config {{config}} --output {{output}} {_TRAIN}",
        "--output earlier/smears --resume",
    ),
    ("evaluate", "smears"): (
        "--weights {smears_weights} --data data/coco/train.json:data/coco/images --output {new}",
        "--weights {weights} --data {detection} --output {output}",
    ),
    ("predict", "smears"): (
        "--weights {smears_weights} --input {images} --output {new}",
        "--weights {weights} --input {images} --output {output}",
    ),
    ("export", "smears"): (
        "--weights {smears_weights} --output new.safetensors",
        "--weights {weights} --output {output}",
    ),
}  # fmt: skip
_PREPARE = ("--source {archive} --output {new}", "--source {path} --output {output}")

# Commands that take long are drawn less often
_WEIGHTS = {
    ("check",): 20, ("prepare",): 1, ("prepare", "cells"): 8, ("train", "cells"): 6,
    ("predict", "cells"): 4, ("datasets",): 6, ("smears",): 6, ("export", "cells"): 4,
    ("train", "smears"): 1, ("predict", "smears"): 1, ("evaluate", "smears"): 1,
    ("completion",): 0.5, ("install-detectron2",): 0.2,
}  # fmt: skip


def draw(pool: str, generator: random.Random) -> str:
    """Returns a value of a pool; now and then one of another pool."""
    if generator.random() < 0.05:
        pool = generator.choice(tuple(POOLS))
    return generator.choice(POOLS[pool])


def pool_of(name: str) -> str:
    """Returns the pool that values of an option of this name come from."""
    return _PURPOSES.get(name, "setting")


def weight(words: tuple[str, ...]) -> float:
    """Returns how often a command is drawn, in relation to the others."""
    return _WEIGHTS.get(words, _WEIGHTS.get(words[:1], 2))


def templates(words: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the templates of a command; an empty one for a command that has none."""
    return _TEMPLATES.get(words, _PREPARE if words[0] == "prepare" else ("",))


def limits(words: tuple[str, ...], generator: random.Random) -> list[str]:
    """Returns the words at the end of a line that keep its work small."""
    if words == ("train", "cells"):
        return ["training.epochs=1", "training.compile=false"]
    if words == ("train", "smears"):
        return [*TINY_SMEARS, "--timeout", "5"]
    if words == ("evaluate", "cells"):
        return ["--bootstrap", "2"]
    if words == ("benchmark",):
        case = ["--case", "hs_fpn/forward", "--rounds", "1", "--warmup", "0"]
        return case if generator.random() < 0.03 else ["--list"]
    return []
