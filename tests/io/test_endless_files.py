"""Readers of small files refuse pipes and devices, which never end."""

import os
from pathlib import Path

import pytest

from wbcnets.data.cells.listing import list_cells
from wbcnets.errors import WbcnetsError
from wbcnets.evaluation.predictions import Predictions
from wbcnets.io.archives import unpack
from wbcnets.io.checkpoints import read_checkpoint
from wbcnets.io.strict_json import read_json
from wbcnets.io.strict_yaml import read_yaml


def unpack_here(path):
    unpack(path, Path())


READERS = (unpack_here, list_cells, Predictions.from_csv, read_checkpoint, read_json, read_yaml)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__qualname__)
@pytest.mark.parametrize("name", ["/dev/zero", "pipe.csv", "pipe.pkl"])
def test_pipes_and_devices_are_refused(read, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name.startswith("pipe"):
        os.mkfifo(name)
    with pytest.raises(WbcnetsError, match=name):
        read(Path(name))
