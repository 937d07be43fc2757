"""Whether two classifiers differ on the same images: McNemar's exact test.

McNemar, Psychometrika 1947: of the images that just one of the two gets right, either should have
half, if they are equally good.
"""

from dataclasses import dataclass

from scipy import stats

from wbcnets.errors import DataError
from wbcnets.train.predictions import Predictions, common_files


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the images that both saw.

    Attributes:
        images: How many these are.
        only_first: Images that the first alone gets right.
        only_second: Images that the second alone gets right.
        p_value: Probability of a difference at least as large between equally good ones.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float


def compare(first: Predictions, second: Predictions) -> Comparison:
    """McNemar's exact two-sided test on the images that two tables share.

    Raises:
        DataError: True classes are unknown or contradict each other, or no image is shared.
    """
    if first.labels is None or second.labels is None:
        raise DataError("a comparison needs tables with the true class of every image")
    pairs = common_files(first.files, second.files)
    if not pairs:
        raise DataError(
            f"the two tables share no file: {first.files[:2]} ... and {second.files[:2]} ..."
        )
    only_first = only_second = 0
    for i, j in pairs:
        truth = first.class_names[first.labels[i]]
        if truth != second.class_names[second.labels[j]]:
            raise DataError(
                f"{first.files[i]} is {truth!r} in one table and "
                f"{second.class_names[second.labels[j]]!r} in the other"
            )
        right = first.class_names[first.predicted[i]] == truth
        other_right = second.class_names[second.predicted[j]] == truth
        only_first += right and not other_right
        only_second += other_right and not right
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Comparison(len(pairs), only_first, only_second, p_value)
