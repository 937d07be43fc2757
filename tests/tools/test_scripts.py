"""The scripts of a clone are commands: the same options, the same answers to mistakes."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for pattern in ("tools/*.py", "datasets/*.py", "projects/mfds_detr/*.py")
    for path in ROOT.glob(pattern)
)


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Runs a script as a process would; returns its exit code and its output."""
    monkeypatch.chdir(tmp_path)

    def run(path, *words):
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        shown = capsys.readouterr()
        return end.value.code, shown.out + shown.err

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_and_mistakes(path, call, tmp_path):
    code, text = call(path, "--help")
    assert code == 0
    assert "usage: " in text
    for words in (["--no-such-option"], ["--output", "/dev/null/x", "--no-such-option"]):
        code, text = call(path, *words)
        assert code == 2
        assert "error: " in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-images", "-1"], "-1 is out of range; it must be 1 or more"),
        (
            ["--output", "earlier"],
            "earlier: holds an earlier demo; name another folder; see --output",
        ),
        (["--output", "a_file", "--train-images", "1"], "a_file"),
    ],
)
def test_mistakes_of_the_demo(words, message, call, tmp_path):
    (tmp_path / "earlier" / "training").mkdir(parents=True)
    (tmp_path / "a_file").write_text("mine")
    code, text = call(ROOT / "tools" / "demo.py", *words)
    assert code == 2
    assert message in text
    assert (tmp_path / "a_file").read_text() == "mine"
