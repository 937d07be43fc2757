"""Two processes give the losses of one process with the double batch."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from detectron2.engine import HookBase
from detectron2.utils import comm

from mfds_detr.cli import train
from mfds_detr.engine.trainer import Trainer
from tests.processes import Worker
from wbcnets.cli.main import run_command


class Recorder(HookBase):
    """Writes the losses of every step and the sums of the final weights."""

    def __init__(self, path):
        self.path = path
        self.rows = []

    def after_step(self):
        latest = self.trainer.storage.latest()
        self.rows.append({name: value for name, (value, _) in latest.items()})

    def after_train(self):
        weights = {n: p.double().sum().item() for n, p in self.trainer.network.named_parameters()}
        result = {"rows": self.rows, "weights": weights, "processes": comm.get_world_size()}
        self.path.write_text(json.dumps(result))


def train_recorded(arguments):
    original = Trainer.build_hooks

    def build_hooks(self):
        path = Path(self.cfg.OUTPUT_DIR) / "losses.json"
        return [*original(self), *([Recorder(path)] if comm.is_main_process() else [])]

    Trainer.build_hooks = build_hooks
    return run_command(train, arguments)


def losses(folder, processes, tiny_command_line, smears):
    folder.mkdir()
    arguments = [
        "--num-gpus", str(processes),
        "--dataset", f"mine={smears.json_file}:{smears.images}", *tiny_command_line,
        "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)",
        "OUTPUT_DIR", str(folder / "output"), "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "3",
        "SOLVER.WARMUP_ITERS", "0", "MODEL.TIMM.FROZEN_BN", "True", "INPUT.RANDOM_FLIP", "none",
        "INPUT.VERTICAL_FLIP", "False", "TEST.EVAL_PERIOD", "0",
        "MODEL.MFDS_DETR.TWO_STAGE", "True",
    ]  # fmt: skip
    worker = Worker(folder / "shown.txt", train_recorded, arguments)
    assert worker.wait() == 0, worker.text
    return json.loads((folder / "output" / "losses.json").read_text())


@pytest.mark.timeout(900)
def test_two_processes_equal_one(tiny_command_line, smears, tmp_path):
    one = losses(tmp_path / "one", 1, tiny_command_line, smears)
    two = losses(tmp_path / "two", 2, tiny_command_line, smears)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["rows"]) == len(two["rows"]) == 3
    names = [name for name in one["rows"][0] if name.startswith(("loss_", "total_loss"))]
    assert len(names) == 10
    for expected, found in zip(one["rows"], two["rows"]):
        for name in [*names, "gradient_norm"]:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    for name, value in one["weights"].items():
        assert two["weights"][name] == pytest.approx(value, rel=1e-3, abs=1e-2), name
    # Three steps with equal losses mean little if nothing was learned
    assert one["rows"][0]["total_loss"] != pytest.approx(one["rows"][2]["total_loss"], rel=1e-3)
