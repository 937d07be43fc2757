"""Whether two classifiers differ on the same images: McNemar's exact test.

McNemar, Psychometrika 1947: of the images that just one of the two gets right, either should have
half, if they are equally good.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from wbcnets.errors import DataError
from wbcnets.evaluation.predictions import Predictions, common_files


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the images that both saw.

    Attributes:
        images: How many these are.
        only_first: Images that the first alone gets right.
        only_second: Images that the second alone gets right.
        p_value: Probability of a difference at least as large between equally good ones.
        not_shared: Images that are in just one of the two tables.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float
    not_shared: int = 0


@dataclass(frozen=True)
class Disagreement:
    """An image that the two take for different classes.

    Attributes:
        file: Its name.
        truth: Its class.
        first: What the first takes it for.
        second: What the second takes it for.
        first_probability: The first's of its class.
        second_probability: The second's of its class.
    """

    file: str
    truth: str
    first: str
    second: str
    first_probability: float
    second_probability: float


def compare(first: Predictions, second: Predictions) -> Comparison:
    """McNemar's exact two-sided test on the images that two tables share.

    Raises:
        DataError: True classes are unknown or contradict each other, or no image is shared.
    """
    only_first = only_second = 0
    pairs = _shared_images(first, second)
    taken, other_taken = first.predicted, second.predicted
    for i, j, truth in pairs:
        right = first.class_names[taken[i]] == truth
        other_right = second.class_names[other_taken[j]] == truth
        only_first += right and not other_right
        only_second += other_right and not right
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    not_shared = len(first.files) + len(second.files) - 2 * len(pairs)
    return Comparison(len(pairs), only_first, only_second, p_value, not_shared)


def disagreements(first: Predictions, second: Predictions) -> list[Disagreement]:
    """The shared images that the two take for different classes, in the order of the first.

    Raises:
        DataError: As `compare`.
    """
    taken, other_taken = first.predicted, second.predicted
    rows = []
    for i, j, truth in _shared_images(first, second):
        name, other_name = first.class_names[taken[i]], second.class_names[other_taken[j]]
        if name != other_name:
            share = float(first.probabilities[i, taken[i]])
            other_share = float(second.probabilities[j, other_taken[j]])
            rows.append(Disagreement(first.files[i], truth, name, other_name, share, other_share))
    return rows


def write_disagreements(rows: Sequence[Disagreement], path: Path) -> None:
    """Writes a row an image: file, true class, both predicted classes and their probabilities."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "true", "this", "other", "this_probability", "other_probability"])
        for row in rows:
            shares = [f"{row.first_probability:.6f}", f"{row.second_probability:.6f}"]
            writer.writerow([row.file, row.truth, row.first, row.second, *shares])


def _shared_images(first: Predictions, second: Predictions) -> list[tuple[int, int, str]]:
    """Places of an image in both tables, and its class."""
    if first.labels is None or second.labels is None:
        raise DataError("a comparison needs tables with the true class of every image")
    places = common_files(first.files, second.files)
    if not places:
        raise DataError(
            f"the two tables share no file: {first.files[:2]} ... and {second.files[:2]} ..."
        )
    shared = []
    for i, j in places:
        truth = first.class_names[first.labels[i]]
        other = second.class_names[second.labels[j]]
        if truth != other:
            raise DataError(
                f"{first.files[i]} is {truth!r} in one table and {other!r} in the other"
            )
        shared.append((i, j, truth))
    return shared
