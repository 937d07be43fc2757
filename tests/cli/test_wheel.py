"""The wheel, installed in an environment of its own and used from another folder."""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long
SOURCES = ("wbcnets", "projects", "tools", "pyproject.toml", "setup.py", "README.md", "LICENSE")
ALL_HELP = """
from wbcnets.cli.main import COMMANDS, PAIRS, main
for name in COMMANDS:
    for words in [[name, kind] for kind in ("cells", "smears")] if name in PAIRS else [[name]]:
        try:
            code = main([*words, "--help"])
        except SystemExit as end:
            code = end.code
        print("exit", *words, code)
"""


def make_environment(folder):
    """Makes an environment with the packages of this one, but none of its editable ones."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A line of a .pth file: the .pth files of that folder itself are not read
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))

    def run(program, *arguments):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [str(folder / "bin" / program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs programs of a fresh environment in which the wheel is installed."""
    root = tmp_path_factory.mktemp("wheel")
    (root / "source").mkdir()
    for name in SOURCES:
        path = REPOSITORY / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, root / "source" / name)
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(root)]
    subprocess.run([*pip, *build, str(root / "source")], check=True, capture_output=True)
    shutil.rmtree(root / "source")
    run = make_environment(root / "venv")
    (wheel,) = root.glob("*.whl")
    python = ["--python", str(root / "venv" / "bin" / "python")]
    install = [*python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return run


def test_the_installer_of_detectron2_runs_from_a_clone_without_the_wheel(tmp_path):
    run = make_environment(tmp_path / "venv")
    assert run("python", "-c", "import importlib.util as u; print(u.find_spec('wbcnets'))") == (
        "None\n"
    )
    assert "--sdist" in run("python", REPOSITORY / "tools" / "install_detectron2.py", "--help")


def test_packages_come_from_the_wheel(installed):
    code = (
        "import wbcnets, mfds_detr; from mfds_detr import MFDSDETR\n"
        "from importlib.metadata import version; assert version('wbcnets') == wbcnets.__version__\n"
        "print(wbcnets.__file__, mfds_detr.__file__)"
    )
    for path in installed("python", "-c", code).split():
        assert "venv" in path


def test_every_command_explains_itself(installed):
    assert "install-detectron2" in installed("wbcnets", "--help")
    shown = installed("python", "-c", ALL_HELP)
    codes = [line.split()[-1] for line in shown.splitlines() if line.startswith("exit ")]
    assert len(codes) == 15
    assert set(codes) == {"0"}


def test_completion_knows_every_option(installed):
    for shell in ("bash", "zsh"):
        shown = installed("wbcnets", "completion", shell)
        for word in ("--class-map", "install-detectron2", "--threshold", "--print-config"):
            assert word in shown


def test_a_cell_is_classified_by_the_shipped_weights(installed, shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "pbc_sample_360.zip") as archive:
        cell = archive.extract("basophil/BA_101611.jpg", tmp_path)
    table = tmp_path / "cells.csv"
    weights = ("--weights", "resnext_cc_26.pbc", "--device", "cpu")
    installed("wbcnets", "predict", "cells", *weights, "--input", cell, "--output", table)
    (row,) = csv.DictReader(table.open())
    assert row["predicted"] == "basophil"


def test_the_cells_of_a_smear_are_found_by_the_shipped_weights(installed, shared_data, tmp_path):
    smear = sorted((shared_data / "bccd").rglob("*.jpg"))[0]
    weights = ("--weights", "mfds_detr_tiny_bccd", "--device", "cpu")
    installed("wbcnets", "predict", "smears", *weights, "--input", smear, "--output", tmp_path)
    image, total = csv.DictReader((tmp_path / "counts.csv").open())
    assert int(image["RBC"]) == int(total["RBC"]) > 3
