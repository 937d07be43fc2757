import os

import pytest

from tests.stress.faults.builders import write_cells, write_coco, write_yolo
from wbcnets.data.check import CheckOptions, check_datasets


@pytest.mark.parametrize("write", [write_cells, write_yolo])
def test_a_folder_that_cannot_be_listed_costs_no_other_set(tmp_path, monkeypatch, write):
    """Somebody else's folder; the superuser of tests may list it."""
    (tmp_path / "bad").mkdir()
    bad, good = write(tmp_path / "bad"), write_coco(tmp_path / "good")
    scandir = os.scandir

    def refuse(folder="."):
        if str(folder).startswith(str(tmp_path / "bad")):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = check_datasets([bad, good], CheckOptions())
    assert "Permission denied" in found.sets[0].error
    assert str(tmp_path / "bad") in found.sets[0].error
    assert found.sets[1].error == ""
    assert found.sets[1].dataset is not None
    assert found.exit_code == 2
