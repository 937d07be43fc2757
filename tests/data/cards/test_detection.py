import pytest

from wbcnets.data.cards.detection import DETECTION_CARDS


def test_published_facts():
    bccd = DETECTION_CARDS["bccd"]
    assert sum(bccd.box_counts.values()) == 4888
    assert bccd.splits["trainval"] + bccd.splits["test"] == 364
    assert bccd.splits["train"] + bccd.splits["val"] == bccd.splits["trainval"]
    assert sum(DETECTION_CARDS["wbcdd"].box_counts.values()) == 1257
    assert sum(DETECTION_CARDS["wbcdd"].splits.values()) == 684
    assert sum(DETECTION_CARDS["lisc"].box_counts.values()) == 260
    assert sum(DETECTION_CARDS["lisc"].splits.values()) == 250


@pytest.mark.parametrize("name", DETECTION_CARDS)
def test_cards_are_complete(name):
    card = DETECTION_CARDS[name]
    assert card.name == name
    assert set(card.box_counts) <= set(card.class_names)
    assert set(card.counted_splits) <= set(card.splits)
    assert not any("_" in split for split in card.splits)
    for text in (card.title, card.license, card.source, card.citation, card.prepare):
        assert text.strip()
        assert text in card.describe()
