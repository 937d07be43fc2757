import re

import pytest

from wbcnets.data.cards import get_card
from wbcnets.data.cards.classes import ClassTable
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cells.splits import GIVEN, parse_protocol
from wbcnets.errors import DataError


@pytest.mark.parametrize("card", CLASSIFICATION_CARDS.values(), ids=CLASSIFICATION_CARDS)
def test_cards_are_consistent(card):
    names = card.class_names
    assert len(set(names)) == len(names) == len(card.classes)
    assert len({entry.short for entry in card.classes}) == len(names)
    assert set(card.counts) in (set(), set(names))
    assert set(card.caps) | set(card.repeats) <= set(names)
    assert card.protocol == GIVEN or abs(sum(parse_protocol(card.protocol).values()) - 1) < 1e-9
    table = ClassTable.from_classes(card.classes)
    for label, entry in enumerate(card.classes):
        for text in (entry.name, entry.title, entry.short, *entry.aliases):
            assert table.find(text.upper()) == label, text
    assert not any(table.find(name) is not None for name in card.left_out)
    text = card.describe()
    assert all(entry.name in text for entry in card.classes)
    assert card.citation in text
    assert card.prepare in text


@pytest.mark.parametrize(
    ("name", "n_classes", "total"),
    [
        ("pbc", 8, 17092),
        ("pbc5", 5, 1218 + 3117 + 1214 + 1420 + 3329),
        ("all_idb2", 2, 260),
        ("bmcd_fgcd", 40, 92335),
        ("aml_lmu", 15, 18365),
        ("aml_lmu10", 10, 18280),
        ("cnmc", 2, 12528),
        ("bloodmnist", 8, 17092),
    ],
)
def test_counts_add_up_to_the_published_totals(name, n_classes, total):
    card = CLASSIFICATION_CARDS[name]
    assert len(card.classes) == n_classes
    assert sum(card.counts.values()) == total


def test_ten_classes_give_the_papers_augmented_counts():
    card = CLASSIFICATION_CARDS["aml_lmu10"]
    taken = {name: min(count, card.caps.get(name, count)) for name, count in card.counts.items()}
    shown = {name: count * card.repeats.get(name, 1) for name, count in taken.items()}
    # Table 4 of the convolutional sparse ViT paper
    assert shown == {
        "NGS": 1000,
        "NGB": 545,
        "LYT": 1000,
        "MON": 1000,
        "EOS": 848,
        "BAS": 395,
        "MYO": 1000,
        "PMO": 350,
        "MYB": 210,
        "EBO": 390,
    }
    assert sum(shown.values()) == 6738


def test_bone_marrow_classes_keep_their_numbers():
    card = CLASSIFICATION_CARDS["bmcd_fgcd"]
    table = ClassTable.from_classes(card.classes)
    assert [table.find(str(number)) for number in range(40)] == list(range(40))
    assert sum(count == 0 for count in card.counts.values()) == 8
    assert table.find("Bistocyte") == table.find("histiocyte") == 37


def test_patient_is_the_number_after_uid():
    pattern = re.compile(CLASSIFICATION_CARDS["cnmc"].group_pattern)
    assert pattern.search("UID_57_29_1_all.bmp").group("group") == "57"
    assert pattern.search("UID_H10_100_1_hem.bmp").group("group") == "H10"
    assert pattern.search("17.bmp") is None


def test_near_misses_are_suggested():
    table = ClassTable.from_classes(CLASSIFICATION_CARDS["pbc"].classes)
    assert table.find(" Immature-Granulocyte ") == 3
    assert table.find("neutrofil") is None
    assert 'did you mean "neutrophil"' in table.explain("neutrofil")
    assert "did you mean" not in table.explain("xyz")


def test_unknown_cards_name_the_closest():
    with pytest.raises(DataError, match=r"did you mean pbc or pbc5\?; known are bccd, .*bmcd_fgcd"):
        get_card("pbc6")
    assert get_card("bccd").name == "bccd"
