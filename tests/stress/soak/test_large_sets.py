"""The set that `large_sets.py` measures is sound, and its boxes are all read."""

import json

from tests.stress.soak.large_sets import make, measure
from wbcnets.data.check import CheckOptions, check_datasets


def test_the_measured_set_needs_no_repair(tmp_path):
    make(tmp_path / "set", 40, 6)
    paths = [tmp_path / "set" / "train.json", tmp_path / "set" / "val.json"]
    found = check_datasets(paths, CheckOptions(strict=True))
    assert found.exit_code == 0
    assert [entry.counts.n_used for entry in found.sets] == [216, 24]
    assert [entry.image_counts.n_used for entry in found.sets] == [36, 4]
    layout = tmp_path / "set" / "val" / "annotations" / "instances_all.json"
    assert len(json.loads(layout.read_text())["annotations"]) == 24
    assert len(list((tmp_path / "set" / "val" / "images" / "all").iterdir())) == 40


def test_a_measurement_names_exit_code_time_and_memory(capfd):
    measure("failing", ["sh", "-c", "exit 3"])
    assert "failing: exit code 3, " in capfd.readouterr().out
