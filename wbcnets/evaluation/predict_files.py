"""Classification of many image files into a table, with a second table of unreadable files."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wbcnets.errors import ConfigError
from wbcnets.evaluation.classifier import Classifier, Unreadable
from wbcnets.evaluation.predictions import TABLE_MARKER, Predictions
from wbcnets.io.image_sources import ImageSource
from wbcnets.io.outputs import StrPath, claim_file
from wbcnets.io.tables import write_csv

UNREADABLE = "unreadable.csv"
REVIEW = "review.csv"
_COLUMNS = ("file", "reason")
_REVIEW_COLUMNS = ("file", "predicted", "probability")


def claim_tables(output: Path, inputs: Sequence[StrPath]) -> tuple[Path, ExitStack]:
    """Checks the files of ``predict_files`` before any work, and locks them.

    Args:
        output: The CSV file; its folder is created.
        inputs: Files that are read.

    Returns:
        The path of the unreadable images' table, and the locks, which a ``with`` block holds.

    Raises:
        ConfigError: if a file cannot be written, is an input or a file of others, or is being
            written by another process.
    """
    if output.name in (UNREADABLE, REVIEW):
        raise ConfigError(
            f"output {output}: is not a name for the table; use another one, such as cells.csv",
            setting="output",
        )
    table = output.with_name(UNREADABLE)
    with ExitStack() as locks:
        locks.enter_context(claim_file(output, inputs, TABLE_MARKER))
        locks.enter_context(claim_file(table, inputs, ",".join(_COLUMNS)))
        review = output.with_name(REVIEW)
        locks.enter_context(claim_file(review, inputs, ",".join(_REVIEW_COLUMNS)))
        return table, locks.pop_all()


def predict_files(
    classifier: Classifier,
    sources: Sequence[ImageSource],
    output: Path,
    batch_size: int = 64,
    **options: str,
) -> tuple[Predictions, Unreadable]:
    """Writes the probabilities of all readable images; returns them, and the unreadable images.

    ``unreadable.csv`` beside the table lists the unreadable images with reasons, ``review.csv``
    those that a person should look at, the unsurest first.

    Args:
        classifier: The model.
        sources: The images.
        output: The CSV file; its folder is created.
        batch_size: Images per batch.
        options: ``tta`` and ``amp`` of ``predict``.

    Raises:
        ConfigError: if an argument cannot be used, or a file of others would be replaced.
    """
    table, locks = claim_tables(output, [classifier.name, *(source.path for source in sources)])
    with locks:
        readers = [(source.name, source.read) for source in sources]
        predictions, unreadable = classifier.predict_readable(readers, batch_size, **options)
        # First, so that the table never looks complete; an empty one replaces an earlier call's
        if unreadable or table.exists():
            write_csv(table, [_COLUMNS, *unreadable])
        _write_review(predictions, output.with_name(REVIEW))
        predictions.to_csv(output)
    return predictions, unreadable


def _write_review(predictions: Predictions, path: Path) -> None:
    rows = [
        (file, label, f"{probability:.6f}")
        for (file, _, label, probability), review in zip(
            predictions.top_predictions(), predictions.review
        )
        if review
    ]
    if rows or path.exists():
        write_csv(path, [_REVIEW_COLUMNS, *sorted(rows, key=lambda row: row[2])])
