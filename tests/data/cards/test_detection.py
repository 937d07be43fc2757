import pytest

from wbcnets.data.cards.detection import CARDS, DATASET_NAMES, dataset_paths, get_card
from wbcnets.errors import DataError


def test_published_facts():
    bccd = get_card("bccd")
    assert sum(bccd.box_counts.values()) == 4888
    assert bccd.splits["trainval"] + bccd.splits["test"] == 364
    assert bccd.splits["train"] + bccd.splits["val"] == bccd.splits["trainval"]
    assert sum(get_card("wbcdd").box_counts.values()) == 1257
    assert sum(get_card("wbcdd").splits.values()) == 684
    assert sum(get_card("lisc").box_counts.values()) == 260
    assert sum(get_card("lisc").splits.values()) == 250


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_complete(name):
    card = CARDS[name]
    assert card.name == name
    assert set(card.box_counts) <= set(card.classes)
    assert set(card.counted_splits) <= set(card.splits)
    assert not any("_" in split for split in card.splits)
    for text in (card.title, card.license, card.source, card.citation, card.prepare):
        assert text.strip()
        assert text in card.describe()


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="bccd, txl_pbc"):
        get_card("bcdc")
    with pytest.raises(DataError, match="bccd_trainval"):
        dataset_paths("bccd_training", tmp_path)


def test_names_resolve_under_a_root(tmp_path, monkeypatch):
    assert {
        "bccd_trainval",
        "bccd_test",
        "txl_pbc_train",
        "wbcdd_test",
        "lisc_train",
        "txl_pbc_without_bccd_train",
    } <= set(DATASET_NAMES)
    folder = tmp_path / "txl_pbc_without_bccd"
    with pytest.raises(DataError, match=r"prepare_txl_pbc\.py .* --without-bccd"):
        dataset_paths("txl_pbc_without_bccd_val", tmp_path)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "val.json").write_text("{}")
    expected = (folder / "annotations" / "val.json", folder / "images")
    assert dataset_paths("txl_pbc_without_bccd_val", tmp_path) == expected
    monkeypatch.setenv("WBCNETS_DATASETS", str(tmp_path))
    assert dataset_paths("txl_pbc_without_bccd_val") == expected
    monkeypatch.delenv("WBCNETS_DATASETS")
    annotations, _ = dataset_paths("bccd_test", must_exist=False)
    assert annotations.as_posix() == "datasets/bccd/annotations/test.json"
