"""The comparison of mutants and the table of a run."""

import ast
import json

from tests.stress.mutants import run

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
