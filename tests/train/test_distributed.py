import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.toy_runs import make_cells, read_weights, toy_config
from wbcnets.engine.distributed import DistributedContext, init_distributed
from wbcnets.errors import ConfigError
from wbcnets.train.config_file import save_config
from wbcnets.train.run import train_classifier

ROOT = Path(__file__).parents[2]
# Without batch norm, whose statistics are of one process's images
OPTIONS = (
    "model.name=test_vit",
    "training.batch_size=12",
    "training.ema_decay=0.9",
    "loss.name={cross_entropy: 1, center: 0.05}",
    "optimizer.name=sgd",
    "optimizer.lr=0.01",
    "training.best_metric=log_loss",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    # Two processes cannot share 15 evaluation images equally
    return make_cells(tmp_path_factory.mktemp("cells") / "toy", train=12, val=5)


def run_processes(number, config, folder):
    save_config(config, folder / "settings.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={number}"),
        *(f"--master-port={port}", "tools/train_classifier.py"),
        *("--config", str(folder / "settings.yaml")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)


def test_two_processes_give_the_weights_and_metrics_of_one(cells, tmp_path):
    train_classifier(toy_config(cells, tmp_path / "one", *OPTIONS))
    run_processes(2, toy_config(cells, tmp_path / "two", *OPTIONS), tmp_path)
    for name in ("last.pth", "best.pth"):
        one, two = read_weights(tmp_path / "one" / name), read_weights(tmp_path / "two" / name)
        assert one.keys() == two.keys()
        assert any(key.startswith("ema.") for key in one)
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=1e-4, msg=key)
    rows = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("one", "two")]
    for one_row, two_row in zip(*rows, strict=True):
        for key in one_row:
            if key.startswith(("val_", "train_")):
                assert float(two_row[key]) == pytest.approx(float(one_row[key]), abs=1e-5), key


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_step_give_the_weights_of_a_whole_step(cells, tmp_path, parts):
    # Centers move once per part, so only losses without centers agree
    plain = (*OPTIONS, "loss.name=cross_entropy")
    train_classifier(toy_config(cells, tmp_path / "whole", *plain))
    options = (*plain, f"training.grad_accum_steps={parts}")
    train_classifier(toy_config(cells, tmp_path / "parts", *options))
    whole = read_weights(tmp_path / "whole" / "last.pth")
    divided = read_weights(tmp_path / "parts" / "last.pth")
    for key in whole:
        torch.testing.assert_close(divided[key], whole[key], atol=1e-5, rtol=1e-4, msg=key)


def test_shards_come_back_in_order_and_once(monkeypatch):
    rows = torch.arange(7.0)[:, None]
    shards = [rows[0::3], rows[1::3], rows[2::3]]

    def gather(out, own):
        out[:] = shards

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    context = DistributedContext(torch.device("cpu"), rank=1, world_size=3)
    np.testing.assert_array_equal(context.gather_shards(shards[1]), rows)
    # Fewer images than processes leave some without any
    shards[:] = [rows[:1], rows[1:2], torch.empty(0)]
    np.testing.assert_array_equal(context.gather_shards(shards[1]), rows[:2])


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU"), init_distributed("cuda"):
        pass
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="process 1 of this machine"), init_distributed("auto"):
        pass
