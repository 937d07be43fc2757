"""Splits that do not leak: stratified by class, with duplicates and patients kept together.

Images that belong together (the same patient or slide, equal pixels, or the same cell by
``wbcnets.data.duplicates.near_duplicates``) form a unit, which is never divided. Units of several
images are assigned first, largest first, to the split where they fit the class fractions best.
Single images then fill each class up to its exact fraction.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wbcnets.data.cells.checks import fingerprint_manifest
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.data.duplicates.near_duplicates import duplicate_pairs
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.image_facts import Fingerprint

GIVEN = "given"
# The images of an epoch, repeated ones counted each time
MAX_LISTED = 5_000_000
_RATIO = re.compile(r"\d+(:\d+){1,2}")
_FOLDS = re.compile(r"(\d+) folds?")


def parse_protocol(protocol: str) -> dict[str, float]:
    """Returns split name -> fraction; the fractions add up to 1.

    Args:
        protocol: "8:2" gives train and val, "7:1:2" train, val and test, "5 folds" fold0 to fold4.
            The second of two parts is called val because training evaluates on it; papers call it
            test.

    Raises:
        ConfigError: if it is none of these.
    """
    folds = _FOLDS.fullmatch(protocol.strip())
    if folds and 2 <= int(folds.group(1)) <= 100:
        number = int(folds.group(1))
        return {f"fold{index}": 1 / number for index in range(number)}
    if _RATIO.fullmatch(protocol.strip()):
        parts = [int(part) for part in protocol.split(":")]
        if min(parts) > 0:
            return {name: part / sum(parts) for name, part in zip(("train", "val", "test"), parts)}
    raise ConfigError(
        f'split protocol "{protocol}" is unknown; use a ratio such as 8:2 or 7:1:2, or "5 folds"',
        setting="protocol",
    )


def split_cells(
    manifest: CellManifest,
    protocol: str,
    seed: int = 0,
    fingerprints: Sequence[Fingerprint] | None = None,
    *,
    allow_rare: bool = False,
) -> CellManifest:
    """Returns the images with new splits.

    Args:
        manifest: The images.
        protocol: See ``parse_protocol``.
        seed: The same images, protocol and seed give the same splits in any order of files.
        fingerprints: One per image; by default the images are decoded to make them.
        allow_rare: Whether a class may have fewer units than there are splits; some splits then
            lack it.

    Raises:
        ConfigError: if the protocol is unknown.
        DataError: if classes have fewer units than there are splits; all are named.
    """
    fractions = parse_protocol(protocol)
    units = find_units(manifest, fingerprints or fingerprint_manifest(manifest))
    if not allow_rare:
        _refuse_rare(manifest, units, len(fractions))
    splits = _assign_splits(manifest, units, np.array(list(fractions.values())), seed)
    names = list(fractions)
    images = tuple(replace(image, split=names[s]) for image, s in zip(manifest.images, splits))
    return replace(manifest, images=images)


def select_fold(manifest: CellManifest, fold: int) -> CellManifest:
    """Returns one fold as "val" and the other folds as "train".

    Raises:
        DataError: if there is no such fold.
    """
    name = f"fold{fold}"
    manifest.split(name)  # raises if there is no such fold
    images = tuple(
        replace(image, split="val" if image.split == name else "train")
        for image in manifest.images
        if image.split.startswith("fold")
    )
    return replace(manifest, images=images)


def cap_classes(manifest: CellManifest, caps: Mapping[str, int], seed: int = 0) -> list[int]:
    """Returns the indices of the images to keep, ascending, so that no class exceeds its cap.

    Args:
        manifest: The images.
        caps: Class name -> largest number of images; other classes are kept whole.
        seed: Of the draw, which does not depend on the order of the files.

    Raises:
        DataError: if a class is unknown.
    """
    _check_class_names(manifest, caps)
    generator = np.random.default_rng(seed)
    kept: list[int] = []
    for label, name in enumerate(manifest.class_names):
        members = [i for i, image in enumerate(manifest.images) if image.label == label]
        indices = _by_file(manifest, members)
        if len(indices) > caps.get(name, len(indices)):
            indices = [indices[i] for i in generator.permutation(len(indices))[: caps[name]]]
        kept += indices
    return sorted(kept)


def repeat_classes(manifest: CellManifest, repeats: Mapping[str, int]) -> CellManifest:
    """Returns the training images with some classes repeated, each copy augmented differently.

    Args:
        manifest: The training images; split them first.
        repeats: Class name -> how often its images are listed; 1 for other classes.

    Raises:
        DataError: if a class is unknown, a number is below 1, or an epoch would be too long.
    """
    _check_class_names(manifest, repeats)
    if any(number < 1 for number in repeats.values()):
        raise DataError(f"repeats {dict(repeats)} must be 1 or more")
    times = [repeats.get(name, 1) for name in manifest.class_names]
    total = sum(times[image.label] for image in manifest.images)
    if total > MAX_LISTED:
        raise DataError(
            f"{manifest.name}: repeats {dict(repeats)} list {total:,} images in an epoch, and the "
            f"limit is {MAX_LISTED:,}; repeat classes less often, or train for more epochs",
            setting="repeats",
        )
    images = tuple(image for image in manifest.images for _ in range(times[image.label]))
    return replace(manifest, images=images)


def find_units(manifest: CellManifest, fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Returns the indices of the images that belong together, by patient, slide or likeness.

    Every image is in exactly one unit; the indices of a unit are sorted by file name.
    """
    parents = list(range(len(manifest.images)))

    def find(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for first, second, _ in duplicate_pairs(fingerprints):
        parents[find(second)] = find(first)
    leaders: dict[str, int] = {}
    for index, image in enumerate(manifest.images):
        if image.group:
            parents[find(index)] = find(leaders.setdefault(image.group, index))
    units: dict[int, list[int]] = defaultdict(list)
    for index in _by_file(manifest, range(len(manifest.images))):
        units[find(index)].append(index)
    return list(units.values())


def _assign_splits(
    manifest: CellManifest, units: list[list[int]], fractions: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.int64]:
    """Returns the index of each image's split, (N,)."""
    generator = np.random.default_rng(seed)
    labels = np.array(manifest.labels)
    totals = np.array(manifest.counts())
    quotas = np.stack([_quota(int(total), fractions) for total in totals], axis=1)
    assigned = np.zeros_like(quotas)
    splits = np.full(len(labels), -1, dtype=np.int64)
    units = [units[i] for i in generator.permutation(len(units))]
    for unit in sorted((unit for unit in units if len(unit) > 1), key=len, reverse=True):
        amount = np.bincount(labels[unit], minlength=len(totals))
        # The change in squared error of each split, relative to its quotas so that small splits
        # and rare classes matter as much
        change = (assigned + amount - quotas) ** 2 - (assigned - quotas) ** 2
        chosen = int((change / np.maximum(quotas, 1)).sum(axis=1).argmin())
        splits[unit] = chosen
        assigned[chosen] += amount
    for label in range(len(totals)):
        single = [unit[0] for unit in units if len(unit) == 1 and labels[unit[0]] == label]
        room = np.maximum(quotas[:, label] - assigned[:, label], 0)
        if not room.any():
            room = np.ones_like(room)
        numbers = _largest_remainder(len(single), room / room.sum())
        splits[single] = np.repeat(np.arange(len(fractions)), numbers)
    return splits


def _quota(total: int, fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns whole numbers that add up to ``total``; none is 0 if possible."""
    quota = _largest_remainder(total, fractions)
    while total >= len(fractions) and quota.min() == 0:
        quota[quota.argmax()] -= 1
        quota[quota.argmin()] += 1
    return quota


def _largest_remainder(total: int, fractions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    exact = total * fractions
    numbers = np.floor(exact + 1e-9).astype(np.int64)
    for index in np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]:
        numbers[index] += 1
    return numbers


def _refuse_rare(manifest: CellManifest, units: list[list[int]], n_splits: int) -> None:
    found = [0] * len(manifest.class_names)
    for unit in units:
        for label in {manifest.images[index].label for index in unit}:
            found[label] += 1
    problems = [
        f"{name}: {count} images in {number} groups, {n_splits} splits"
        for name, count, number in zip(manifest.class_names, manifest.counts(), found)
        if count and number < n_splits
    ]
    if problems:
        raise DataError(
            f"{manifest.name}: classes are too small to be in every split - merge them, leave them "
            "out, use fewer splits, or allow rare classes",
            problems,
            setting="allow_rare",
        )


def _by_file(manifest: CellManifest, indices: Sequence[int]) -> list[int]:
    return sorted(indices, key=lambda index: manifest.images[index].file)


def _check_class_names(manifest: CellManifest, numbers: Mapping[str, int]) -> None:
    unknown = sorted(set(numbers) - set(manifest.class_names))
    if unknown:
        raise DataError(
            f"{manifest.name} has no class {', '.join(unknown)}; its classes are "
            f"{', '.join(manifest.class_names)}"
        )
