"""Every dependency has a lowest version, and `make lowest` tests exactly that one."""

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = {
    requirement.name: requirement
    for entry in (*PROJECT["dependencies"], *EXTRAS["detection"], *EXTRAS["train"], *EXTRAS["test"])
    for requirement in [Requirement(entry)]
}


def floor(requirement):
    """Returns the version of a requirement ``name>=version``."""
    (specifier,) = requirement.specifier
    assert specifier.operator == ">=", f"{requirement}: give a lowest version and nothing else"
    return Version(specifier.version)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_lowest_version_is_given_and_is_the_tested_one(name):
    lowest, installed = floor(REQUIREMENTS[name]), Version(Version(version(name)).public)
    if os.environ.get("WBCNETS_LOWEST"):
        assert installed == lowest
    else:
        assert installed >= lowest


@pytest.mark.parametrize("entry", ["name", "name==1", "name>=1,<2"])
def test_other_requirements_are_refused(entry):
    with pytest.raises((AssertionError, ValueError)):
        floor(Requirement(entry))
