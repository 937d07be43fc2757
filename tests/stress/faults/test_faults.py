"""Every fault of the catalog gets its answer."""

import dataclasses
import importlib.util
import re

import pytest

from tests.stress.faults.catalog import CASES
from tests.stress.faults.readers import NEEDS_DETECTRON2, run_case

HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None
# One case for every reader and expected answer
EXAMPLES = {(case.reader, case.expected): case for case in reversed(CASES) if case.pattern}


def check(case, folder):
    """Asserts a case's answer, and that its files are neither run nor changed."""
    if case.reader in NEEDS_DETECTRON2 and not HAS_DETECTRON2:
        pytest.skip("needs detectron2")
    path = case.make(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    outcome = run_case(case, path)
    assert outcome.kind == case.expected, f"{case.title}: {outcome.kind}: {outcome.text}"
    assert not (folder / "executed").exists(), "a payload was run"
    for file, content in before.items():
        assert file.read_bytes() == content, f"{file} was changed"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_fault(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("case", EXAMPLES.values(), ids=lambda case: case.id)
def test_a_wrong_message_fails(case, tmp_path):
    planted = dataclasses.replace(case, pattern="a sentence that no message holds")
    with pytest.raises(AssertionError, match=r"wrong text|silent"):
        check(planted, tmp_path)


@pytest.mark.parametrize("case", EXAMPLES.values(), ids=lambda case: case.id)
def test_a_wrong_kind_of_answer_fails(case, tmp_path):
    other = "accept" if case.expected in ("error", "repair") else "error"
    with pytest.raises(AssertionError, match=re.escape(case.title)):
        check(dataclasses.replace(case, expected=other), tmp_path)


def test_every_answer_but_plain_acceptance_has_a_pattern():
    empty = [case.id for case in CASES if case.expected != "accept" and re.search(case.pattern, "")]
    assert empty == []


def test_size_of_the_catalog():
    assert len(CASES) >= 500
    assert len({case.id for case in CASES}) == len(CASES)
