"""What sets and splits share: equal pixels, cells and fields that look alike, and patients."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from wbcnets.data.cells.listing import compile_group_pattern
from wbcnets.data.detection.coco import CocoDataset
from wbcnets.data.duplicates.hashes import find_overlaps
from wbcnets.data.duplicates.near_duplicates import Fingerprint, duplicate_pairs
from wbcnets.errors import DataError

if TYPE_CHECKING:  # the package of checks imports this module
    from wbcnets.data.check.results import SetResult

_SHOWN = 20


@dataclass(frozen=True)
class _Cell:
    place: str
    file: str
    group: str
    fingerprint: Fingerprint


def find_shared(
    results: Sequence["SetResult"], group_pattern: str = ""
) -> tuple[list[str], list[str]]:
    """What must not be shared by two sets or splits, and is.

    Args:
        results: The sets; those that cannot be used are passed over.
        group_pattern: See `wbcnets.data.check.checking.CheckOptions`.

    Returns:
        Certain leaks, equal pixels and patients, then suspicions: near duplicates, and that
        patients are not known.
    """
    leaks: list[str] = []
    suspicions: list[str] = []
    cells = list(_cells(results))
    if len({cell.place for cell in cells}) > 1:
        _compare_cells(cells, leaks, suspicions)
    datasets = [entry.dataset for entry in results if entry.dataset is not None]
    for first, second in combinations(datasets, 2):
        if _is_part_by_name(first, second):
            continue
        compare_datasets(first, second, leaks, suspicions, group_pattern)
    several = len(datasets) > 1 and not group_pattern
    if several or (cells and len({c.place for c in cells}) > 1 and not any(c.group for c in cells)):
        suspicions.append("patients or slides: unknown, name them with --group-by")
    return leaks, suspicions


def _is_part_by_name(first: CocoDataset, second: CocoDataset) -> bool:
    """Whether one is the union that many sets publish beside its parts."""
    names = {Path(dataset.source).stem.casefold() for dataset in (first, second)}
    return "trainval" in names and bool(names & {"train", "val"})


def compare_datasets(
    first: CocoDataset,
    second: CocoDataset,
    leaks: list[str],
    suspicions: list[str],
    group_pattern: str = "",
) -> None:
    """Adds what two detection sets share to `leaks` and `suspicions`."""
    paths = [[image.file_name for image in dataset.images] for dataset in (first, second)]
    names = (Path(first.source).name, Path(second.source).name)
    overlaps = find_overlaps(paths[0], paths[1])
    leaks += _some(
        [f"{a} ({names[0]}) and {b} ({names[1]}): equal pixels" for a, b in overlaps.exact]
    )
    suspicions += _some(
        [
            f"{a} ({names[0]}) and {b} ({names[1]}): {distance} of 64 bits differ"
            for a, b, distance in overlaps.near
        ]
    )
    pattern = compile_group_pattern(group_pattern)
    if pattern is None:
        return
    groups = []
    for files in paths:
        found = (pattern.search(Path(file).name) for file in files)
        groups.append({match.group("group") for match in found if match})
    leaks += _some(
        [
            f'patient or slide "{name}" is in {names[0]} and {names[1]}'
            for name in sorted(groups[0] & groups[1])
        ]
    )


def refuse_leaks(
    train: Sequence[CocoDataset], test: Sequence[CocoDataset], override: str
) -> list[str]:
    """Compares every training set with every other test set, before a training.

    Args:
        train: The training sets.
        test: The test sets.
        override: The setting by which a person goes on all the same, for the message.

    Returns:
        Near duplicates, one line each.

    Raises:
        DataError: Images with equal pixels are in both.
    """
    leaks: list[str] = []
    suspicions: list[str] = []
    for first in train:
        for second in test:
            if first.source != second.source:
                compare_datasets(first, second, leaks, suspicions)
    if leaks:
        raise DataError(
            "images are in a training set and in a test set, too, so that the figures "
            f"would be too good - remove them, or go on with {override}",
            leaks,
        )
    return suspicions


def _cells(results: Sequence["SetResult"]) -> Iterator[_Cell]:
    for result in results:
        if result.cells is None:
            continue
        manifest = result.cells.manifest
        for image, fingerprint in zip(manifest.images, result.cells.fingerprints):
            place = f"{Path(result.name).name} {image.split}".strip()
            yield _Cell(place, image.file, image.group, fingerprint)


def _compare_cells(cells: Sequence[_Cell], leaks: list[str], suspicions: list[str]) -> None:
    exact, near = [], []
    for first, second, correlation in duplicate_pairs([cell.fingerprint for cell in cells]):
        a, b = cells[first], cells[second]
        if a.place == b.place:
            continue
        pair = f"{a.file} ({a.place}) and {b.file} ({b.place})"
        if correlation == 1.0:
            exact.append(f"{pair}: equal pixels")
        else:
            near.append(f"{pair}: correlation {correlation:.3f}")
    places: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if cell.group:
            places[cell.group].add(cell.place)
    shared = [
        f'patient or slide "{group}" is in {" and ".join(sorted(found))}'
        for group, found in sorted(places.items())
        if len(found) > 1
    ]
    leaks += _some(exact) + _some(shared)
    suspicions += _some(near)


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + ([f"... and {more} more of this kind"] if more > 0 else [])
