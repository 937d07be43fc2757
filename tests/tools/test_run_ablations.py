import importlib.util

from tests.conftest import REPOSITORY
from tests.train.toy_runs import make_cells
from wbcnets.cli.main import run_command


def load_tool(name):
    path = REPOSITORY / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ablations_from_the_command_line(tmp_path, capsys):
    tool = load_tool("run_ablations")
    cells = make_cells(tmp_path / "toy", train=4, val=2)
    arguments = ["--paper", "sckansformer", "--data", str(cells), "--output", str(tmp_path / "run")]
    small = [
        *("model.pretrained=false", "model.kwargs.embed_dim=48", "model.kwargs.depth=1"),
        *("model.kwargs.num_heads=3", "data.img_size=32", "data.workers=0", "device=cpu"),
        *("training.batch_size=12", "training.epochs=1"),
    ]
    assert run_command(tool, [*arguments, "--tables", "V", "--", *small]) == 0
    assert "| SCKansformer |" in capsys.readouterr().out
    assert run_command(tool, [*arguments, "--tables", "VII"]) == 2
    assert "use some of IV, V, VI" in capsys.readouterr().err
