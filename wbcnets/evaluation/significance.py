"""McNemar's exact test: whether two classifiers differ on the same images.

McNemar, Psychometrika 1947. If two classifiers are equally good, each gets half of the images right
that exactly one of them gets right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wbcnets.errors import DataError, explain_missing
from wbcnets.evaluation.predictions import Predictions
from wbcnets.io.tables import write_csv

with explain_missing():
    from scipy.stats import binomtest


@dataclass(frozen=True)
class McNemarResult:
    """Two classifiers on the images that both have seen.

    Attributes:
        images: Number of these images.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        p_value: Probability of a difference at least as large between equally good classifiers.
        not_shared: Images in only one of the two tables.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float
    not_shared: int


class SharedImage(NamedTuple):
    """An image in two tables; the fields are the columns of ``disagreements.csv``."""

    file: str
    true: str
    this: str
    other: str
    this_probability: float
    other_probability: float


def mcnemar_test(first: Predictions, second: Predictions) -> McNemarResult:
    """Returns the exact two-sided test on the images that two tables share.

    Raises:
        DataError: if true classes are unknown or contradict each other, or no image is shared.
    """
    shared = shared_images(first, second)
    only_first = sum(image.this == image.true != image.other for image in shared)
    only_second = sum(image.other == image.true != image.this for image in shared)
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    not_shared = len(first.files) + len(second.files) - 2 * len(shared)
    return McNemarResult(len(shared), only_first, only_second, p_value, not_shared)


def write_disagreements(first: Predictions, second: Predictions, path: Path) -> None:
    """Writes one row per shared image with different predictions, in the order of the first table.

    Raises:
        DataError: if ``mcnemar_test`` refuses the tables.
    """
    rows = [image for image in shared_images(first, second) if image.this != image.other]
    texts = [(*row[:4], *(f"{probability:.6f}" for probability in row[4:])) for row in rows]
    write_csv(path, [SharedImage._fields, *texts])


def shared_images(first: Predictions, second: Predictions) -> list[SharedImage]:
    """Returns the images of both tables, in the order of the first.

    Raises:
        DataError: if ``mcnemar_test`` refuses the tables.
    """
    if first.labels is None or second.labels is None:
        raise DataError("a comparison needs tables with the true class of every image")
    rows = {row[0]: row[1:] for row in second.top_predictions()}
    shared = []
    for file, truth, name, probability in first.top_predictions():
        if file not in rows:
            continue
        other_truth, other, other_probability = rows[file]
        if truth != other_truth:
            raise DataError(f"{file} is {truth!r} in one table and {other_truth!r} in the other")
        shared.append(SharedImage(file, truth, name, other, probability, other_probability))
    if not shared:
        raise DataError(
            f"the two tables share no file: {first.files[:2]} ... and {second.files[:2]} ..."
        )
    return shared
