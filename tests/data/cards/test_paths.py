import pytest

from wbcnets.data.cards.paths import DATASET_NAMES, dataset_paths
from wbcnets.errors import DataError


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="did you mean bccd_train or bccd_trainval"):
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
    with pytest.raises(DataError, match=r"wbcnets prepare txl_pbc .* --classes without_bccd"):
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
