"""The command that prepares datasets, and the real data."""

import pytest

from wbcnets.cli.main import main


@pytest.fixture
def prepare():
    """Runs ``wbcnets prepare NAME``; returns the exit code."""

    def run(name, source, output, *options):
        words = ["--source", str(source), "--output", str(output), *options]
        return main(["prepare", name, *words])

    return run


@pytest.fixture
def shared(shared_data):
    """A file or folder of the shared data, or a skip."""

    def find(name):
        if not (shared_data / name).exists():
            pytest.skip(f"{name} is not in the shared data")
        return shared_data / name

    return find
