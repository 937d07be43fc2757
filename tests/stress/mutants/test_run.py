"""The comparison of mutants and the table of a run."""

import ast
import json
import tomllib
from subprocess import CompletedProcess

import pytest

from tests.conftest import REPOSITORY
from tests.stress.mutants import run
from tests.stress.mutants.groups import GROUPS

SOURCE = """
def x_area__mutmut_orig(w, h):
    if w < 0:
        raise ValueError("negative")
    return w * h
def x_area__mutmut_1(w, h):
    if w < 0:
        raise ValueError("XXnegativeXX")
    return w * h
def x_area__mutmut_2(w, h):
    if w < 0:
        raise ValueError("negative")
    return w / h
"""


def write_run(folder, codes):
    (folder / "mutants" / "shapes").mkdir(parents=True)
    (folder / "mutants" / "shapes" / "area.py").write_text(SOURCE)
    results = {f"shapes.area.x_area__mutmut_{i}": code for i, code in enumerate(codes, 1)}
    meta = folder / "mutants" / "shapes" / "area.py.meta"
    meta.write_text(json.dumps({"exit_code_by_key": results}))


def test_changed_texts_are_told_from_changed_code():
    functions = {node.name: node for node in ast.parse(SOURCE).body}
    text, code = (run.mutant_of(f"a.x_area__mutmut_{i}", 0, functions) for i in (1, 2))
    assert (text.is_text, code.is_text) == (True, False)
    assert code.difference == "-    return w * h\n+    return w / h"


def test_a_run_with_survivors_fails_and_shows_them(tmp_path, capsys):
    write_run(tmp_path, [1, 0])
    assert run.report([tmp_path]) == 1
    shown = capsys.readouterr().out
    assert "+    return w / h" in shown
    assert "| `shapes/area.py` | 2 | 1 | 50.0% | 1 | 0 |" in shown
    assert "Fewer than 85% killed in shapes/area.py" in shown


def test_functions_without_tests_count_as_survivors_and_unrun_mutants_not(tmp_path, capsys):
    write_run(tmp_path, [33, None])
    assert run.report([tmp_path]) == 1
    assert "| `shapes/area.py` | 1 | 0 | 0.0% | 1 | 1 |" in capsys.readouterr().out


def test_a_run_without_survivors_passes(tmp_path, capsys):
    write_run(tmp_path, [1, 1])
    assert run.report([tmp_path]) == 0
    assert "| 2 | 2 | 100.0% | 0 | 0 |" in capsys.readouterr().out


def test_a_run_of_nothing_fails(tmp_path):
    assert run.report([tmp_path]) == 1


def test_survivors_are_tested_again_with_the_present_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "COPIES", tmp_path)
    calls = []
    monkeypatch.setattr(
        run.subprocess,
        "run",
        lambda call, cwd: calls.append((call, cwd)) or CompletedProcess(call, 3),
    )
    write_run(tmp_path / "metrics", [1, 0])
    assert run.run_mutmut("metrics", 2, survivors=True) == 3
    ((call, folder),) = calls
    assert call[1:] == [
        "-m",
        "mutmut",
        "run",
        "--max-children",
        "2",
        "shapes.area.x_area__mutmut_2",
    ]
    assert (folder / "tests" / "conftest.py").is_file()
    write_run(tmp_path / "matcher", [1, 1])
    assert run.run_mutmut("matcher", 2, survivors=True) == 0
    assert len(calls) == 1


def test_a_copy_is_set_to_one_group(tmp_path):
    group = GROUPS["attention"]
    run.copy_sources(tmp_path / "copy", group)
    settings = tomllib.loads((tmp_path / "copy" / "pyproject.toml").read_text())["tool"]["mutmut"]
    assert settings["only_mutate"] == list(group.sources)
    assert settings["pytest_add_cli_args_test_selection"] == list(group.tests)
    assert (tmp_path / "copy" / "mfds_detr" / "modeling" / "matcher.py").is_file()


@pytest.mark.parametrize("name", GROUPS)
def test_groups_name_sources_and_tests_that_are_there(name):
    for pattern in GROUPS[name].sources:
        folder = REPOSITORY / "projects/mfds_detr" if pattern.startswith("mfds") else REPOSITORY
        assert list(folder.glob(pattern)), pattern
    for path in GROUPS[name].tests:
        assert (REPOSITORY / path).exists(), path
