"""All faults, in the order of their numbers."""

from tests.stress.faults import cell_cases, coco_cases, model_cases, text_cases

_PARTS = (coco_cases, text_cases, cell_cases, model_cases)


def _numbered() -> list:
    counts: dict[str, int] = {}
    cases = []
    for part in _PARTS:
        for case in part.catalog.cases:
            name = case.id.split("-")[0]
            counts[name] = counts.get(name, 0) + 1
            cases.append(type(case)(**{**vars(case), "id": f"{name}-{counts[name]}"}))
    return sorted(cases, key=lambda c: (c.id.split("-")[0], int(c.id.split("-")[1])))


CASES = _numbered()
