"""All faults, in the order of their numbers."""

import dataclasses
from collections import Counter

from tests.stress.faults import (
    cell_cases,
    coco_cases,
    input_cases,
    model_cases,
    text_cases,
    weight_cases,
)
from tests.stress.faults.case import Case


def _numbered() -> list[Case]:
    counts: Counter[str] = Counter()
    cases = []
    for part in (coco_cases, text_cases, cell_cases, input_cases, model_cases, weight_cases):
        for case in part.catalog.cases:
            counts[case.id] += 1
            cases.append((case.id, counts[case.id], case))
    cases.sort(key=lambda entry: entry[:2])
    return [dataclasses.replace(case, id=f"{id}-{number}") for id, number, case in cases]


CASES = _numbered()
