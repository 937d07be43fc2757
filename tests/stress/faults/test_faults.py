"""Every fault of the catalog gets its answer; `tests/stress/faults/report.py` tells the numbers."""

import importlib.util

import pytest

from tests.stress.faults.catalog import CASES
from tests.stress.faults.readers import NEEDS_DETECTRON2, answer_of

HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_fault(case, tmp_path):
    if case.reader in NEEDS_DETECTRON2 and not HAS_DETECTRON2:
        pytest.skip("needs detectron2")
    path = case.make(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    outcome = answer_of(case, path)
    assert outcome.answer == case.answer, f"{case.title}: {outcome.text}"
    assert not (tmp_path / "executed").exists(), "a payload was run"
    for file, content in before.items():
        assert file.read_bytes() == content, f"{file} was changed"


def test_the_catalog_is_as_large_as_was_promised():
    assert len(CASES) >= 150
    assert len({case.id for case in CASES}) == len(CASES)
