from tests.tools.tool_modules import load_tool
from tests.train.toy_runs import make_cells


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
