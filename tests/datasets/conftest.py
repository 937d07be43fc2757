"""The preparation scripts as modules, and the way to the real data."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def script():
    """Loads a file of `datasets/` by name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "datasets" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def shared():
    """A file or folder of the shared data, or a skip."""

    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not in ../shared/data")
        return SHARED / name

    return find
