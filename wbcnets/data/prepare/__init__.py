"""Preparation: from a published dataset to the files that training reads."""

from pathlib import Path

from wbcnets.data.cards.card import ClassificationCard, DatasetCard, DetectionCard
from wbcnets.data.prepare.cells import prepare_cells
from wbcnets.data.prepare.options import Prepared, PrepareOptions
from wbcnets.data.prepare.smears import prepare_smears
from wbcnets.errors import ConfigError

__all__ = ["PrepareOptions", "Prepared", "prepare_dataset"]


def prepare_dataset(
    card: DatasetCard | None,
    source: Path,
    output: Path | None = None,
    options: PrepareOptions | None = None,
) -> Prepared:
    """Prepares smears or cells; see ``prepare_smears`` and ``prepare_cells``.

    Args:
        card: The dataset; without a card, the source holds images that show one cell each.
        source: The published folder or file.
        output: The folder of the dataset; by default ``<dataset root>/<name>``.
        options: See ``PrepareOptions``.

    Raises:
        DataError: if the source cannot be used; all problems are listed.
        ConfigError: if the options are wrong.
    """
    if isinstance(card, DetectionCard):
        return prepare_smears(card, source, output, options)
    if card is None or isinstance(card, ClassificationCard):
        return prepare_cells(card, source, output, options)
    raise ConfigError(f"{card.name} is neither a dataset of smears nor of cells")
