"""The whole path from images to AP learns: eight generated smears are found again."""

import json

import pytest

pytest.importorskip("detectron2")

from mfds_detr.cli import train
from wbcnets.cli.main import run_command
from wbcnets.synthetic.smears import LEUKOCYTE_CLASSES, SmearStyle, write_smear_dataset


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_eight_smears_are_found_again(repository, tmp_path):
    folder = tmp_path / "smears"
    style = SmearStyle(height=240, width=320, magnification=0.5, leukocytes=2.0)
    json_file = write_smear_dataset(
        folder, 8, seed=1, style=style, classes=LEUKOCYTE_CLASSES, suffix=".png"
    )
    boxes = len(json.loads(json_file.read_text())["annotations"])
    assert boxes >= 10
    config = repository / "projects" / "mfds_detr" / "configs" / "mfds_detr_tiny_base.yaml"
    overrides = {
        "DATASETS.TRAIN": "('overfit',)",
        "DATASETS.TEST": "('overfit',)",
        "OUTPUT_DIR": tmp_path / "output",
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "MODEL.MFDS_DETR.NUM_QUERIES": 30,
        "MODEL.MFDS_DETR.EXTRA_STAGE": False,
        "INPUT.MIN_SIZE_TRAIN": "(192,)",
        "INPUT.MIN_SIZE_TEST": 192,
        "INPUT.RANDOM_FLIP": "none",
        "INPUT.VERTICAL_FLIP": False,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.BACKBONE_LR": 0.001,
        "SOLVER.NECK_LR": 0.001,
        "SOLVER.WARMUP_ITERS": 20,
        "SOLVER.MAX_ITER": 130,
        "SOLVER.CHECKPOINT_PERIOD": 1000,
        "SOLVER.EMA.ENABLED": False,
        "TEST.EVAL_PERIOD": 0,
        "TEST.SAMPLE_PICTURES": 8,
    }
    arguments = ["--dataset", f"overfit={json_file}:{folder / 'images'}"]
    arguments += ["--config-file", str(config)]
    arguments += [str(part) for item in overrides.items() for part in item]
    assert run_command(train, arguments) == 0
    record = json.loads((tmp_path / "output" / "evaluation.json").read_text())
    assert record["iteration"] == 130
    assert record["results"]["overfit"]["AP50"] >= 95.0, record
