import csv
import json
import re

import pytest

from wbcnets.benchmark.case import Candidate, Case, Pair, Target
from wbcnets.benchmark.machine import Machine
from wbcnets.benchmark.measure import Measurement, Runs
from wbcnets.benchmark.report import Result, results_table
from wbcnets.cli.main import main


def run(*arguments):
    return main(["benchmark", *map(str, arguments)])


def result(ours, peer, target):
    pair = Pair(Candidate("ours", print, items=4, macs=100), Candidate("peer", print))
    case = Case("thing/forward", "", lambda options: pair, ("operators",), Target(time=target))
    return Result(case, pair, Measurement(Runs(ours), Runs(peer)))


MACHINE = Machine("a processor", 2, macs_per_second=200.0, bytes_per_second=1.0, versions={})


def test_a_row_holds_ratio_target_and_floor():
    row = result([1.0, 3.0], [2.0, 4.0], 0.7).row(MACHINE)
    assert row["ratio"] == 0.625
    assert (row["ratio_min"], row["ratio_max"]) == (0.5, 0.75)
    assert row["target_met"] == "yes"
    assert row["floor_seconds"] == 0.5
    assert row["items_per_second"] == 2.0
    assert row["memory_ratio"] is None


@pytest.mark.parametrize(("target", "verdict"), [(0.7, "0.70, met"), (0.6, "0.60, missed")])
def test_the_table_says_whether_a_target_is_met(target, verdict):
    table = results_table([result([1.0, 3.0], [2.0, 4.0], target)], MACHINE)
    line = table.splitlines()[-1]
    assert verdict in line
    assert "0.62 (0.50 to 0.75)" in line
    assert "500.0 ms (25%)" in line


def test_lists_cases_without_running_any(capsys):
    assert run("--list") == 0
    printed = capsys.readouterr().out
    for name in ("sckansformer_base/training", "kan/forward", "scaling/sckansformer_small"):
        assert name in printed


def test_an_unknown_case_is_answered_with_the_known_ones(capsys):
    assert run("--case", "kan") == 2
    assert re.search(r"unknown cases \['kan'\].*kan/forward", capsys.readouterr().err)


def test_no_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        run("--case", "kan/forward", "--rounds", 0)
    assert "argument --rounds: 0 is out of range" in capsys.readouterr().err


def test_the_detector_is_left_out_where_it_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("wbcnets.api.entry_points", lambda **query: [])
    assert run("--list") == 0
    assert "left out: the detector is not installed" in capsys.readouterr().out


def test_a_run_leaves_a_folder_that_explains_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wbcnets.benchmark.machine._MATRIX_SIDE", 256)
    folder = tmp_path / "out"
    run("--case", "kan/training", "--rounds", 1, "--output", folder, "--profile")
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
    assert "written to" in capsys.readouterr().out
