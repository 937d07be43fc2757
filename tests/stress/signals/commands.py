"""Every command with small inputs, of which it leaves each as it was."""

from pathlib import Path

from tests.data.cells.cell_images import make_class_folders
from tests.evaluation.small_classifier import save_run, small_model

CELLS = {"a": 12, "b": 12, "c": 12}
SMEARS = 6
_NET = [
    "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "MODEL.WEIGHTS", "",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "4",
    "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)", "SOLVER.MAX_ITER", "12",
]  # fmt: skip
# "out" is the output; the seconds are those of an undisturbed run on one core
COMMANDS: dict[str, tuple[float, list[str]]] = {
    "check": (0.5, ["check", "smears/annotations.json", "--images", "smears/images", "--fix-to"]),
    "prepare": (0.5, ["prepare", "cells", "--source", "cells", "--protocol", "8:2", "--output"]),
    "train cells": (2.0, [
        "train", "cells", "--data", "cells", "model.name=test_resnet", "data.img_size=32",
        "data.split_protocol=8:2", "training.epochs=3", "training.batch_size=4", "data.workers=1",
        "training.checkpoint_minutes=0", "device=cpu", "--output",
    ]),
    "train smears": (4.0, [
        "train", "smears", "--config", "mfds_detr_tiny_base", "--device", "cpu", "--workers", "1",
        "--dataset", "mine=smears/annotations.json:smears/images", *_NET, "--output",
    ]),
    "evaluate cells": (2.0, [
        "evaluate", "cells", "--weights", "best.pth", "--data", "cells", "--split", "",
        "--bootstrap", "50", "--workers", "1", "--output",
    ]),
    "evaluate smears": (2.5, [
        "evaluate", "smears", "--weights", "mfds_detr_tiny_smears", "--device", "cpu", "--data",
        "smears/annotations.json:smears/images", "--output",
    ]),
    "predict cells": (0.5, [
        "predict", "cells", "--weights", "best.pth", "--input", "cells", "--output",
    ]),
    "predict smears": (1.5, [
        "predict", "smears", "--weights", "mfds_detr_tiny_smears", "--device", "cpu", "--input",
        "smears/images", "--output",
    ]),
    "export cells": (0.3, ["export", "cells", "--weights", "best.pth", "--output"]),
    "export smears": (0.5, ["export", "smears", "--weights", "mfds_detr_tiny_smears", "--output"]),
    "smears": (1.0, ["smears", "--images", "8", "--size", "160x120", "--output"]),
    "datasets": (0.3, [
        "datasets", "show", "smears/annotations.json", "--images", "smears/images", "--output",
    ]),
    "benchmark": (1.5, ["benchmark", "--case", "kan/forward", "--rounds", "2", "--output"]),
}  # fmt: skip
_SUFFIXES = {"predict cells": ".csv", "export smears": ".safetensors", "datasets": ".png"}


def words(command: str) -> list[str]:
    """Returns the command line, to be run in a folder of ``make_inputs``."""
    return [*COMMANDS[command][1], f"output/out{_SUFFIXES.get(command, '')}"]


def make_inputs(folder: Path) -> None:
    """Writes the inputs of all commands."""
    from wbcnets.synthetic.smears import SmearStyle, write_smear_dataset

    make_class_folders(folder / "cells", CELLS)
    save_run(folder / "best.pth", small_model())
    style = SmearStyle(height=120, width=160, magnification=0.25, leukocytes=3.0)
    write_smear_dataset(folder / "smears", SMEARS, seed=3, style=style, suffix=".png")
