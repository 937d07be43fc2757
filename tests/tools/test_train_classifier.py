import importlib.util
from pathlib import Path

import pytest
import yaml

from tests.train.toy_runs import make_cells, toy_config
from wbcnets.train.config_file import save_config

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return load_tool("train_classifier")


def test_a_run_from_a_file_and_its_resumption(tool, tmp_path, capsys):
    cells, run = make_cells(tmp_path / "toy"), tmp_path / "run"
    save_config(toy_config(Path("elsewhere"), Path("elsewhere")), tmp_path / "mine.yaml")
    command = ["--config", str(tmp_path / "mine.yaml"), "--data", str(cells), "--output", str(run)]
    assert tool.main([*command, "training.epochs=1"]) == 0
    assert "epoch 1/1" in capsys.readouterr().out
    assert (run / "best.pth").is_file()
    assert tool.main(command) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert tool.main(["--resume", str(run), "data.workers=1"]) == 0
    assert tool.main(["--resume", str(run), "training.epochs=5"]) == 1
    assert "would change the result of the run" in capsys.readouterr().err


def test_mistakes_end_with_a_message(tool, tmp_path, capsys):
    assert tool.main(["--config", "nothing"]) == 1
    assert "presets are" in capsys.readouterr().err
    assert tool.main(["training.epoch=1"]) == 1
    assert "did you mean training.epochs" in capsys.readouterr().err
    assert tool.main(["--resume", str(tmp_path), "--output", "x"]) == 1
    assert "from the run itself" in capsys.readouterr().err
    assert tool.main(["--data", str(tmp_path / "none"), "--output", str(tmp_path / "run")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_settings_can_be_printed(tool, capsys):
    arguments = ["--config", "resnet18_pbc_cpu", "--print-config", "--data", "my_cells"]
    assert tool.main([*arguments, "training.epochs=3"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["source"] == "my_cells"
    assert printed["training"]["epochs"] == 3


def test_ablations_from_the_command_line(tmp_path, capsys):
    tool = load_tool("run_ablations")
    cells = make_cells(tmp_path / "toy", train=4, val=2)
    arguments = ["--paper", "sckansformer", "--data", str(cells), "--output", str(tmp_path / "run")]
    small = [
        *("model.pretrained=false", "model.kwargs.embed_dim=48", "model.kwargs.depth=1"),
        *("model.kwargs.num_heads=3", "data.img_size=32", "data.workers=0", "device=cpu"),
        *("training.batch_size=12", "training.epochs=1"),
    ]
    assert tool.main([*arguments, "--tables", "V", "--", *small]) == 0
    assert "| SCKansformer |" in capsys.readouterr().out
    assert tool.main([*arguments, "--tables", "VII"]) == 1
    assert "use some of IV, V, VI" in capsys.readouterr().err
