"""Classification of many image files into a table, with a second table of unreadable files."""

from collections.abc import Sequence
from pathlib import Path

from wbcnets.errors import ConfigError
from wbcnets.evaluation.classifier import Classifier, Unreadable
from wbcnets.evaluation.predictions import Predictions
from wbcnets.io.csv_files import write_csv
from wbcnets.io.image_sources import ImageSource

UNREADABLE = "unreadable.csv"
_COLUMNS = ("file", "reason")


def predict_files(
    classifier: Classifier,
    sources: Sequence[ImageSource],
    output: Path,
    batch_size: int = 64,
    **options: str,
) -> tuple[Predictions, Unreadable]:
    """Writes the probabilities of all readable images; returns them, and the unreadable images.

    ``unreadable.csv`` beside the table lists the unreadable images with reasons.

    Args:
        classifier: The model.
        sources: The images.
        output: The CSV file; its folder is created.
        batch_size: Images per batch.
        options: ``tta`` and ``amp`` of ``predict``.

    Raises:
        ConfigError: if an argument cannot be used.
    """
    if output.name == UNREADABLE or output.is_dir():
        raise ConfigError(
            f"output {output}: is not a name for the table; use another one, such as cells.csv",
            setting="output",
        )
    readers = [(source.name, source.read) for source in sources]
    predictions, unreadable = classifier.predict_readable(readers, batch_size, **options)
    output.parent.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(output)
    table = output.with_name(UNREADABLE)
    # An empty table replaces one of an earlier call, and nothing else of that name
    if unreadable or _is_ours(table):
        write_csv(table, [_COLUMNS, *unreadable])
    return predictions, unreadable


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(",".join(_COLUMNS).encode())
