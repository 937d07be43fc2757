from pathlib import Path

import yaml

from tests.train.toy_runs import make_cells, toy_config
from wbcnets.cli.main import main
from wbcnets.train.config_file import save_config


def test_a_run_from_a_file_and_its_resumption(tmp_path, capsys):
    cells, run = make_cells(tmp_path / "toy"), tmp_path / "run"
    save_config(toy_config(Path("elsewhere"), Path("elsewhere")), tmp_path / "mine.yaml")
    command = ["--config", str(tmp_path / "mine.yaml"), "--data", str(cells), "--output", str(run)]
    assert main(["train", "cells", *command, "training.epochs=1"]) == 0
    assert "epoch 1/1" in capsys.readouterr().out
    assert (run / "best.pth").is_file()
    assert main(["train", "cells", *command]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", "cells", "--output", str(run), "--resume", "data.workers=1"]) == 0
    assert main(["train", "cells", "--output", str(run), "--resume", "training.epochs=5"]) == 2
    assert "would change the result of the run" in capsys.readouterr().err


def test_mistakes_end_with_a_message(tmp_path, capsys):
    assert main(["train", "cells", "--config", "nothing"]) == 2
    assert "presets are" in capsys.readouterr().err
    assert main(["train", "cells", "training.epoch=1"]) == 2
    assert "did you mean training.epochs" in capsys.readouterr().err
    assert main(["train", "cells", "--resume"]) == 2
    assert "--resume needs --output FOLDER" in capsys.readouterr().err
    missing = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "run")]
    assert main(["train", "cells", *missing]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_options_are_taken_as_they_are(capsys):
    words = ["--print-config", "--data", "my #1 cells", "--output", "null"]
    assert main(["train", "cells", *words]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["source"], printed["output"]) == ("my #1 cells", "null")


def test_settings_can_be_printed(capsys):
    arguments = ["--config", "resnet18_pbc_cpu", "--print-config", "--data", "my_cells"]
    assert main(["train", "cells", *arguments, "training.epochs=3"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["source"] == "my_cells"
    assert printed["training"]["epochs"] == 3
