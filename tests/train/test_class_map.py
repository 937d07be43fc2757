import pytest

from wbcnets.errors import DataError
from wbcnets.train.class_map import label_map, read_class_map


def test_equal_names_in_another_order_need_no_map():
    assert label_map(("a", "b", "c"), ("c", "a", "b")) == {0: 1, 1: 2, 2: 0}


def test_several_classes_may_become_one_and_others_none():
    mapping = {"band": "neutrophil", "segmented": "neutrophil"}
    places = label_map(("band", "blast", "segmented"), ("monocyte", "neutrophil"), mapping)
    assert places == {0: 1, 2: 1}


def test_different_names_without_a_map_are_an_error_that_lists_both():
    with pytest.raises(DataError, match=r"--class-map(.|\n)*data set: a, b(.|\n)*model: a, c"):
        label_map(("a", "b"), ("a", "c"))


def test_unknown_names_are_all_listed():
    with pytest.raises(DataError) as error:
        label_map(("a",), ("b",), {"x": "b", "a": "y"})
    assert len(error.value.problems) == 2


def test_file(tmp_path):
    (tmp_path / "map.yaml").write_text("ig: IG\n1: one\n")
    assert read_class_map(tmp_path / "map.yaml") == {"ig": "IG", "1": "one"}


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "a: [", "!!python/object:os.system {}"])
def test_other_files_are_errors_that_name_them(content, tmp_path):
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(DataError, match=r"map\.yaml"):
        read_class_map(tmp_path / "map.yaml")
