import csv
import json
import sys

import pytest

from tests.tools.tool_modules import load_tool
from wbcnets.benchmark.case import Candidate, Case, Comparison, Target
from wbcnets.benchmark.machine import Machine
from wbcnets.benchmark.measure import Measurement, Timing
from wbcnets.benchmark.report import Result, results_table


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    load_tool("benchmark").main()


def result(ours, peer, target):
    comparison = Comparison(Candidate("ours", print, items=4, macs=100), Candidate("peer", print))
    case = Case(
        "thing/forward", "", lambda settings: comparison, ("operators",), Target(time=target)
    )
    return Result(case, comparison, Measurement(Timing(ours), Timing(peer)))


MACHINE = Machine("a processor", 2, macs_per_second=200.0, bytes_per_second=1.0, versions={})


def test_a_row_holds_ratio_aim_and_floor():
    row = result([1.0, 3.0], [2.0, 4.0], 0.7).row(MACHINE)
    assert row["ratio"] == 0.625
    assert (row["ratio_min"], row["ratio_max"]) == (0.5, 0.75)
    assert row["aim_met"] == "yes"
    assert row["floor_seconds"] == 0.5
    assert row["items_per_second"] == 2.0
    assert row["memory_ratio"] == ""


@pytest.mark.parametrize(("target", "verdict"), [(0.7, "0.70, met"), (0.6, "0.60, missed")])
def test_the_table_says_whether_an_aim_is_met(target, verdict):
    table = results_table([result([1.0, 3.0], [2.0, 4.0], target)], MACHINE)
    line = table.splitlines()[-1]
    assert verdict in line
    assert "0.62 (0.50 to 0.75)" in line
    assert "500.0 ms (25%)" in line


def test_lists_cases_without_running_any(monkeypatch, capsys):
    run(monkeypatch, "--list")
    printed = capsys.readouterr().out
    for name in ("sckansformer_base/training", "kan/forward", "scaling/sckansformer_small"):
        assert name in printed


def test_an_unknown_case_ends_with_those_that_there_are(monkeypatch):
    with pytest.raises(SystemExit, match=r"unknown cases \['kan'\].*kan/forward"):
        run(monkeypatch, "--case", "kan")


def test_no_rounds_are_refused(monkeypatch):
    with pytest.raises(SystemExit, match="--rounds must be at least 1"):
        run(monkeypatch, "--case", "kan/forward", "--rounds", 0)


def test_a_run_leaves_a_folder_that_explains_itself(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "out"
    run(monkeypatch, "--case", "kan/training", "--rounds", 1, "--output", folder, "--profile")
    written = {path.name for path in folder.iterdir()}
    wanted = {"README.txt", "report.md", "results.csv", "rounds.csv", "machine.json"}
    assert wanted | {"trace_kan_training_KANLinear.json"} <= written
    with (folder / "results.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == "kan/training"
    assert float(row["ratio"]) == pytest.approx(
        float(row["seconds"]) / float(row["peer_seconds"]), rel=1e-6
    )
    assert 0 < float(row["memory_ratio"]) < 0.25  # counted, not timed
    assert json.loads((folder / "machine.json").read_text())["threads"] >= 1
    assert "--case kan/training" in (folder / "report.md").read_text()
    assert "Written to" in capsys.readouterr().out
