"""Dataset cards: the published facts about each dataset, looked up by name."""

import difflib
from collections.abc import Collection

from wbcnets.data.cards.card import DatasetCard
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.errors import DataError

CARDS: dict[str, DatasetCard] = {**DETECTION_CARDS, **CLASSIFICATION_CARDS}


def get_card(name: str) -> DatasetCard:
    """Returns the card of a dataset.

    Raises:
        DataError: if there is no such dataset; the message names the closest ones.
    """
    if name not in CARDS:
        raise DataError(unknown_name(name, CARDS))
    return CARDS[name]


def unknown_name(name: str, known: Collection[str]) -> str:
    """Returns the message for an unknown dataset: the closest known names, and all of them."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f" - did you mean {' or '.join(near)}?" if near else ""
    return f'dataset "{name}" is unknown{hint}; known are {", ".join(known)}'
