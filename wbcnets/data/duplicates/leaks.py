"""Finds what two sides share and must not: images, cells or fields that look alike, and patients.

A side is a split of a set of cells or a set of smears. Equal pixels and shared patients are
certain leaks. Near duplicates are suspicions: evenly stained fields can look alike.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from wbcnets.data.cards.card import LeakPolicy
from wbcnets.data.cells.listing import compile_group_pattern
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.data.detection.builder import smear_facts
from wbcnets.data.detection.dataset import CocoDataset, CocoImage
from wbcnets.data.duplicates.near_duplicates import (
    duplicate_pairs,
    similar_pairs,
    stack_hashes,
)
from wbcnets.errors import DataError
from wbcnets.io.image_facts import Fingerprint
from wbcnets.io.parallel import map_images

# The most bits of 64 in which the hashes of two near duplicate smears differ
SMEAR_BITS = 4
_SHOWN = 20


@dataclass(frozen=True)
class SideImage:
    """One image of a side.

    Args:
        side: Name of the split or set.
        file: Name for messages.
        digest: Equal for images of equal content.
        group: Patient or slide; empty if unknown.
        fingerprint: For near duplicates; without it only equal content is found.
    """

    side: str
    file: str
    digest: str
    group: str = ""
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True)
class Leak:
    """Two images of different sides that should be on one.

    Args:
        reason: Why.
        first: Index of an image.
        second: Index of an image of another side.
        text: The leak in words.
    """

    reason: Literal["equal pixels", "near duplicate", "same group"]
    first: int
    second: int
    text: str

    @property
    def certain(self) -> bool:
        """Whether this is more than a suspicion."""
        return self.reason != "near duplicate"


def cell_sides(
    manifest: CellManifest, fingerprints: Sequence[Fingerprint] = (), prefix: str = ""
) -> list[SideImage]:
    """Returns the images of a manifest; each split is a side.

    Args:
        manifest: The images.
        fingerprints: One per image; without them only equal files and groups are found.
        prefix: Put before the names of the splits.
    """
    return [
        SideImage(
            f"{prefix} {image.split}".strip(),
            image.file,
            fingerprints[index].digest if fingerprints else image.sha256 or f"unknown {index}",
            image.group,
            fingerprints[index] if fingerprints else None,
        )
        for index, image in enumerate(manifest.images)
    ]


def smear_sides(dataset: CocoDataset, side: str = "", group_pattern: str = "") -> list[SideImage]:
    """Returns the images of a set of smears.

    Args:
        dataset: The images.
        side: Name of the side; the name of the annotation file by default.
        group_pattern: See ``wbcnets.data.cells.listing.list_cells``.

    Raises:
        DataError: if images cannot be read.
    """
    side, pattern = side or Path(dataset.source).name, compile_group_pattern(group_pattern)

    def describe(image: CocoImage) -> SideImage:
        found = pattern.search(Path(image.file_name).name) if pattern else None
        fingerprint = image.fingerprint or smear_facts(Path(image.file_name)).fingerprint
        group = found.group("group") if found else ""
        return SideImage(side, image.file_name, fingerprint.digest, group, fingerprint)

    return map_images(describe, dataset.images, side)


def find_leaks(images: Sequence[SideImage], kind: Literal["cells", "smears"]) -> list[Leak]:
    """Returns what two sides share.

    Args:
        images: The images of all sides.
        kind: Near duplicates of cells are confirmed by correlation; of smears, by their hashes.

    Returns:
        Equal pixels, then near duplicates, then one leak for each two sides that share a group.
    """
    leaks = [
        Leak("equal pixels", first, second, f"{_name(images, first, second)}: equal pixels")
        for first, second in _shared(images, [image.digest for image in images])
    ]
    for first, second, detail in _near_duplicates(images, kind):
        text = f"{_name(images, first, second)}: near duplicate ({detail})"
        leaks.append(Leak("near duplicate", first, second, text))
    for first, second in _shared(images, [image.group for image in images], once=True):
        a, b = images[first], images[second]
        text = f'patient or slide "{a.group}" is in {a.side} and {b.side}'
        leaks.append(Leak("same group", first, second, text))
    return leaks


def describe_leaks(leaks: Sequence[Leak]) -> list[str]:
    """Returns the leaks in words, at most twenty of each kind."""
    lines = []
    for reason in dict.fromkeys(leak.reason for leak in leaks):
        texts = [leak.text for leak in leaks if leak.reason == reason]
        more = len(texts) - _SHOWN
        lines += texts[:_SHOWN] + [f"... and {more} more of this kind"] * (more > 0)
    return lines


def apply_leak_policy(
    leaks: Sequence[Leak], policy: LeakPolicy, name: str, remedy: str
) -> list[str]:
    """Returns the lines of a warning about leaks that the policy lets through.

    Args:
        leaks: The leaks between training and evaluation.
        policy: "refuse" lets only near duplicates through.
        name: The data, for the error.
        remedy: How to go on all the same, for the error.

    Raises:
        DataError: if the policy is "refuse" and there are certain leaks.
    """
    certain = [leak for leak in leaks if leak.certain]
    if certain and policy == "refuse":
        raise DataError(
            f"{name}: {len(certain)} leaks between training and evaluation, so the metrics would "
            f"be too good - remove them, or {remedy}",
            describe_leaks(certain),
        )
    return describe_leaks(leaks)


def _name(images: Sequence[SideImage], first: int, second: int) -> str:
    a, b = images[first], images[second]
    return f"{a.file} [{a.side}] and {b.file} [{b.side}]"


def _shared(
    images: Sequence[SideImage], keys: Sequence[str], once: bool = False
) -> list[tuple[int, int]]:
    """Returns pairs of images of different sides with equal keys; empty keys are unknown.

    Every such image is in a pair with the first one of each other side; with ``once``, only the
    first ones of two sides are in a pair.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if key:
            members[key].append(index)
    pairs = set()
    for indices in members.values():
        first: dict[str, int] = {}
        for index in indices:
            first.setdefault(images[index].side, index)
        for index in first.values() if once else indices:
            others = (other for side, other in first.items() if side != images[index].side)
            pairs |= {(min(index, other), max(index, other)) for other in others}
    return sorted(pairs)


def _near_duplicates(
    images: Sequence[SideImage], kind: Literal["cells", "smears"]
) -> Iterator[tuple[int, int, str]]:
    """Yields pairs of images that look alike but are not equal, and how alike they are."""
    sides: dict[str, list[tuple[int, Fingerprint]]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.fingerprint is not None:
            sides[image.side].append((index, image.fingerprint))
    for first, second in combinations(sides.values(), 2):
        indices_a, a = zip(*first)
        indices_b, b = zip(*second)
        if kind == "cells":
            found = ((i, j, f"correlation {c:.3f}") for i, j, c in duplicate_pairs(a, b))
        else:
            similar = similar_pairs(stack_hashes(a), stack_hashes(b), SMEAR_BITS)
            found = ((i, j, f"{distance} of 64 bits differ") for i, j, distance in similar)
        for i, j, detail in found:
            if a[i].digest != b[j].digest:
                yield indices_a[i], indices_b[j], detail
