"""McNemar's exact test: whether two classifiers differ on the same images.

McNemar, Psychometrika 1947. If two classifiers are equally good, each gets half of the images right
that exactly one of them gets right.
"""

from dataclasses import astuple, dataclass
from pathlib import Path

from scipy import stats

from wbcnets.errors import DataError
from wbcnets.evaluation.predictions import Predictions
from wbcnets.io.csv_files import write_csv


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
    not_shared: int = 0


@dataclass(frozen=True)
class Disagreement:
    """An image for which two classifiers predict different classes.

    Attributes:
        file: Its name.
        truth: Its class.
        first: The first's prediction.
        second: The second's prediction.
        first_probability: The first's probability of its prediction.
        second_probability: The second's probability of its prediction.
    """

    file: str
    truth: str
    first: str
    second: str
    first_probability: float
    second_probability: float


def mcnemar_test(first: Predictions, second: Predictions) -> McNemarResult:
    """Returns the exact two-sided test on the images that two tables share.

    Raises:
        DataError: if true classes are unknown or contradict each other, or no image is shared.
    """
    pairs = _shared_images(first, second)
    said, other_said = first.predicted, second.predicted
    only_first = only_second = 0
    for i, j, truth in pairs:
        first_right = first.class_names[said[i]] == truth
        second_right = second.class_names[other_said[j]] == truth
        only_first += first_right and not second_right
        only_second += second_right and not first_right
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    not_shared = len(first.files) + len(second.files) - 2 * len(pairs)
    return McNemarResult(len(pairs), only_first, only_second, p_value, not_shared)


def find_disagreements(first: Predictions, second: Predictions) -> list[Disagreement]:
    """Returns the shared images with different predictions, in the order of the first table.

    Raises:
        DataError: as ``mcnemar_test``.
    """
    said, other_said = first.predicted, second.predicted
    rows = []
    for i, j, truth in _shared_images(first, second):
        name, other = first.class_names[said[i]], second.class_names[other_said[j]]
        if name != other:
            probability = float(first.probabilities[i].max())
            other_probability = float(second.probabilities[j].max())
            rows.append(
                Disagreement(first.files[i], truth, name, other, probability, other_probability)
            )
    return rows


def write_disagreements(rows: list[Disagreement], path: Path) -> None:
    """Writes one row per image: file, true class, both predictions and their probabilities."""
    header = ("file", "true", "this", "other", "this_probability", "other_probability")
    write_csv(
        path,
        [header]
        + [
            (*astuple(row)[:4], f"{row.first_probability:.6f}", f"{row.second_probability:.6f}")
            for row in rows
        ],
    )


def _shared_images(first: Predictions, second: Predictions) -> list[tuple[int, int, str]]:
    """Returns the index of each shared image in both tables, and its class."""
    if first.labels is None or second.labels is None:
        raise DataError("a comparison needs tables with the true class of every image")
    indices = {file: index for index, file in enumerate(second.files)}
    shared = []
    for i, file in enumerate(first.files):
        j = indices.get(file)
        if j is None:
            continue
        truth = first.class_names[first.labels[i]]
        other = second.class_names[second.labels[j]]
        if truth != other:
            raise DataError(f"{file} is {truth!r} in one table and {other!r} in the other")
        shared.append((i, j, truth))
    if not shared:
        raise DataError(
            f"the two tables share no file: {first.files[:2]} ... and {second.files[:2]} ..."
        )
    return shared
